"""Which hooks are called, when, in which order, and what the logs say then."""

import numpy as np

from mlpug.testing import FakeNativeCallback

EPOCH = ["on_epoch_start", *["on_batch_training_start", "on_batch_training_completed"] * 3, "on_epoch_completed"]
DATASET = [np.full(2, float(number)) for number in range(3)]


def test_hooks_are_called_in_the_order_of_the_life_cycle(train, journal):
    train(DATASET, [journal], num_epochs=2)

    assert journal.hooks == ["on_training_start", *EPOCH, *EPOCH, "on_training_ended"]
    assert journal.outcomes == [
        {"stopped_early": False, "stopped_on_error": False, "interrupted": False, "callback_calls_success": True}
    ]


def test_the_logs_count_epochs_batches_and_iterations(train, journal):
    train(DATASET, [journal], num_epochs=2)
    during_batches = [(epoch, step, iteration) for hook, epoch, step, iteration in journal.places if "_batch_" in hook]
    expected = [(epoch, step, epoch * 3 + step) for epoch in range(2) for step in range(3)]

    assert during_batches == [place for place in expected for _ in range(2)]
    assert [place[1:3] for place in journal.places if place[0] == "on_epoch_start"] == [(0, 0), (1, 0)]
    assert [place[1:3] for place in journal.places if place[0] == "on_epoch_completed"] == [(0, 2), (1, 2)]
    assert journal.places[0] == ("on_training_start", 0, 0, 0)
    assert journal.places[-1] == ("on_training_ended", 1, 2, 5)


def test_the_logs_tell_the_last_epoch_and_the_last_batch_from_the_start(train, callback_with):
    seen = []
    train(
        DATASET,
        [callback_with(on_training_start=lambda logs: seen.append((logs["final_epoch"], logs["final_batch_step"])))],
        num_epochs=4,
    )

    assert seen == [(3, 2)]


def test_the_last_batch_is_none_where_nobody_knows_it(train):
    manager = train(iter(DATASET))

    assert manager.logs["final_batch_step"] is None
    assert manager.logs.at("batch_step") == 2


def test_the_epoch_is_said_at_both_places(train, callback_with):
    seen = []
    hook = callback_with(on_epoch_start=lambda logs: seen.append((logs["epoch"], logs["current"]["epoch"])))
    train(DATASET, [hook], num_epochs=3)

    assert seen == [(0, 0), (1, 1), (2, 2)]


def test_each_hook_is_called_in_list_order(train, callback_with):
    heard = []

    def named(name):
        return callback_with(
            on_training_start=lambda logs: heard.append((name, "training_start")),
            on_epoch_start=lambda logs: heard.append((name, "epoch_start")),
            on_batch_training_start=lambda batch, logs: heard.append((name, "batch_start")),
            on_batch_training_completed=lambda batch, logs: heard.append((name, "batch_completed")),
            on_epoch_completed=lambda logs: heard.append((name, "epoch_completed")),
            on_training_ended=lambda logs, **outcome: heard.append((name, "training_ended")),
        )

    train(DATASET[:1], [named("a"), named("b"), named("c")])
    hooks = ["training_start", "epoch_start", "batch_start", "batch_completed", "epoch_completed", "training_ended"]

    assert heard == [(name, hook) for hook in hooks for name in "abc"]


def test_native_callbacks_are_called_where_they_stand_in_the_list(train, callback_with):
    heard = []

    def ours(name):
        return callback_with(
            on_training_start=lambda logs: heard.append((name, "training_started")),
            on_epoch_start=lambda logs: heard.append((name, "epoch_started")),
            on_batch_training_start=lambda batch, logs: heard.append((name, "batch_started")),
            on_batch_training_completed=lambda batch, logs: heard.append((name, "batch_ended")),
            on_epoch_completed=lambda logs: heard.append((name, "epoch_ended")),
        )

    def native(name):
        return FakeNativeCallback(lambda event: heard.append((name, event)))

    train(DATASET[:1], [native("a"), ours("b"), ours("c"), native("d"), native("e"), ours("f")])
    events = ["training_started", "epoch_started", "batch_started", "batch_ended", "epoch_ended"]

    assert heard == [(name, event) for event in events for name in "abcdef"]


def test_what_one_callback_writes_the_next_one_reads(train, callback_with):
    seen = []

    def write(batch, logs):
        logs["current"].child("mine").child("batch")["sum"] = float(batch.sum())

    writer = callback_with(on_batch_training_completed=write)
    reader = callback_with(on_batch_training_completed=lambda batch, logs: seen.append(logs.at("mine.batch.sum")))
    train(DATASET, [writer, reader])

    assert seen == [0.0, 2.0, 4.0]


def test_callbacks_get_the_batch_itself(train, callback_with):
    started, completed = [], []
    hooks = callback_with(
        on_batch_training_start=lambda batch, logs: started.append(batch),
        on_batch_training_completed=lambda batch, logs: completed.append(batch),
    )
    train(DATASET, [hooks])

    for batches in (started, completed):
        assert [batch is given for batch, given in zip(batches, DATASET, strict=True)] == [True] * 3


def test_a_batch_is_not_computed_yet_when_it_starts_and_is_when_it_is_completed(train, callback_with, mean_model):
    before, after = [], []
    hooks = callback_with(
        on_batch_training_start=lambda batch, logs: before.append(len(mean_model.calls)),
        on_batch_training_completed=lambda batch, logs: after.append(len(mean_model.calls)),
    )
    train(DATASET, [hooks])

    assert (before, after) == ([0, 1, 2], [1, 2, 3])


def test_the_step_output_is_there_from_the_end_of_a_batch_to_the_start_of_the_next(train, callback_with):
    seen = []

    def look(*_):
        output = hooks.manager.step_output
        seen.append(None if output is None else output.loss)

    hooks = callback_with(
        on_training_start=look, on_batch_training_start=look, on_batch_training_completed=look, on_epoch_completed=look
    )
    train(DATASET, [hooks])

    assert seen == [None, None, 0.0, None, 1.0, None, 2.0, 2.0]


def test_settings_that_a_callback_writes_reach_the_training_model_with_the_next_batch(train, callback_with, mean_model):
    def write(batch, logs):
        logs["training_settings"] = {"step": logs["current"]["batch_step"]}

    train(DATASET, [callback_with(on_batch_training_completed=write)])

    assert mean_model.calls == [(None, False), ({"step": 0}, False), ({"step": 1}, False)]


def test_callbacks_find_the_manager_and_the_experiment_data(train, callback_with):
    seen = []
    hooks = callback_with(on_training_start=lambda logs: seen.append(hooks.manager))
    data = {"name": "first try"}
    manager = train(DATASET, [hooks], experiment_data=data)

    assert seen == [manager]
    assert manager.experiment_data is data


def test_the_logs_tell_the_learning_rate_whether_weights_moved_and_how_long_things_took(train, callback_with):
    seen = []

    def look(batch, logs):
        seen.append(
            (
                logs.at("training_params.batch.lr"),
                logs.at("training.batch.did_update_model"),
                logs.at("training_params.batch.duration") >= 0,
                logs.at("training_params.sliding_window.duration") >= 0,
            )
        )

    manager = train(DATASET, [callback_with(on_batch_training_completed=look)])

    assert seen == [(0.05, True, True, True)] * 3
    assert manager.logs.at("training_params.epoch.duration") >= 0


def test_the_learning_rates_of_several_optimizers_are_told_by_name(make_trainer, make_manager, stub_adapter):
    trainer = make_trainer()
    trainer.adapter = stub_adapter(trainer.adapter, learning_rates=lambda: {"generator": 0.1, "critic": 0.2})
    manager = make_manager([(np.ones((1, 2)), np.ones(1))], trainer=trainer)
    manager.start_training()

    assert manager.logs.at("training_params.batch.lr") == {"generator": 0.1, "critic": 0.2}


def test_training_without_callbacks_trains(make_trainer, make_manager, regression_batches):
    trainer, batches = make_trainer(learning_rate=0.1), regression_batches(4, 3)
    make_manager(batches, trainer=trainer, num_epochs=2).start_training()
    weight, bias = np.zeros(2), 0.0
    for x, y in batches * 2:
        errors = x @ weight + bias - y
        weight = weight - 0.1 * (2 * (x.T @ errors) / len(y))
        bias = bias - 0.1 * (2 * np.mean(errors))

    assert trainer.training_model.parameters["weight"].tolist() == weight.tolist()
    assert trainer.training_model.parameters["bias"].item() == float(bias)
