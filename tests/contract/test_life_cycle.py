"""Which hook is called when, with what in the logs, on every adapter."""

import pytest
from contract.backends.base import make_batches

from mlpug.callbacks import Callback
from mlpug.trainers import TrainingManager


class Recorder(Callback):
    """Writes down every hook; `act` does something at one of them."""

    def __init__(self, story, label="", act_at=None, act=None):
        self.story, self.label, self.act_at, self.act = story, label, act_at, act

    def tell(self, hook, logs):
        current = logs["current"]
        entry = (hook, current["epoch"], current["batch_step"])
        self.story.append(f"{self.label}{hook}" if self.label else entry)
        if self.act_at in (hook, entry):
            self.act(self.manager)

    def on_training_start(self, logs):
        self.tell("training_start", logs)

    def on_epoch_start(self, logs):
        self.tell("epoch_start", logs)

    def on_batch_training_start(self, batch, logs):
        self.tell("batch_start", logs)

    def on_batch_training_completed(self, batch, logs):
        self.tell("batch_completed", logs)

    def on_epoch_completed(self, logs):
        self.tell("epoch_completed", logs)

    def on_training_ended(self, logs, **outcome):
        self.story.append(("training_ended", {name for name, value in outcome.items() if value}))


def train(backend, dataset, callbacks, **arguments):
    trainer = backend.trainer()
    manager = TrainingManager(trainer, dataset, callbacks=callbacks, **arguments)
    trainer.set_training_model(backend.training_model())
    manager.start_training()
    return manager


def test_hooks_are_called_in_order_with_the_right_counts(backend):
    story = []
    manager = train(backend, make_batches((4, 4)), [Recorder(story)], num_epochs=2)
    assert story == [
        ("training_start", 0, 0),
        ("epoch_start", 0, 0),
        ("batch_start", 0, 0),
        ("batch_completed", 0, 0),
        ("batch_start", 0, 1),
        ("batch_completed", 0, 1),
        ("epoch_completed", 0, 1),
        ("epoch_start", 1, 0),
        ("batch_start", 1, 0),
        ("batch_completed", 1, 0),
        ("batch_start", 1, 1),
        ("batch_completed", 1, 1),
        ("epoch_completed", 1, 1),
        ("training_ended", {"callback_calls_success"}),
    ]
    logs = manager.logs
    assert (logs["final_epoch"], logs["final_batch_step"], logs["current"]["global_iter"]) == (1, 1, 3)
    assert logs["current"]["training_params"]["epoch"]["duration"] > 0
    assert isinstance(logs.at("training_params.batch.lr"), float)


def test_native_callbacks_and_ours_are_called_in_list_order(backend):
    story = []
    callbacks = [
        Recorder(story, "first "),
        backend.native_callback(lambda event: story.append(f"native {event}")),
        Recorder(story, "second "),
        Recorder(story, "third "),
    ]
    train(backend, make_batches((4,)), callbacks)
    assert [entry for entry in story if not isinstance(entry, tuple)] == [
        *("first training_start", "native training_started", "second training_start", "third training_start"),
        *("first epoch_start", "native epoch_started", "second epoch_start", "third epoch_start"),
        *("first batch_start", "native batch_started", "second batch_start", "third batch_start"),
        *("first batch_completed", "native batch_ended", "second batch_completed", "third batch_completed"),
        *("first epoch_completed", "native epoch_ended", "second epoch_completed", "third epoch_completed"),
    ]


STOPS = {
    "training_start": [],
    "epoch_start": [("epoch_start", 0, 0)],
    ("batch_start", 0, 1): [
        *(("epoch_start", 0, 0), ("batch_start", 0, 0), ("batch_completed", 0, 0)),
        *(("batch_start", 0, 1), ("batch_completed", 0, 1)),
    ],
    ("batch_completed", 0, 0): [("epoch_start", 0, 0), ("batch_start", 0, 0), ("batch_completed", 0, 0)],
    ("batch_completed", 0, 2): [
        *(("epoch_start", 0, 0), ("batch_start", 0, 0), ("batch_completed", 0, 0), ("batch_start", 0, 1)),
        *(("batch_completed", 0, 1), ("batch_start", 0, 2), ("batch_completed", 0, 2), ("epoch_completed", 0, 2)),
    ],
    ("epoch_completed", 0, 2): [
        *(("epoch_start", 0, 0), ("batch_start", 0, 0), ("batch_completed", 0, 0), ("batch_start", 0, 1)),
        *(("batch_completed", 0, 1), ("batch_start", 0, 2), ("batch_completed", 0, 2), ("epoch_completed", 0, 2)),
    ],
}


@pytest.mark.parametrize("stop_at", STOPS, ids=str)
def test_a_stop_ends_training_after_what_is_under_way(backend, stop_at):
    story = []
    stopping = Recorder(story, act_at=stop_at, act=lambda manager: manager.stop_training())
    train(backend, make_batches((4, 4, 4)), [stopping], num_epochs=3)
    assert story == [
        ("training_start", 0, 0),
        *STOPS[stop_at],
        ("training_ended", {"stopped_early", "callback_calls_success"}),
    ]


def test_a_stop_in_the_very_last_batch_is_no_early_stop(backend):
    story = []
    stopping = Recorder(story, act_at=("batch_completed", 1, 1), act=lambda manager: manager.stop_training())
    train(backend, make_batches((4, 4)), [stopping], num_epochs=2)
    assert story[-2:] == [("epoch_completed", 1, 1), ("training_ended", {"callback_calls_success"})]


def test_the_batches_output_is_let_go_when_the_next_batch_starts(backend):
    seen = []

    class Look(Callback):
        def on_batch_training_start(self, batch, logs):
            seen.append((self.manager.step_output, list(logs["current"]["training"]["batch"])))

        def on_batch_training_completed(self, batch, logs):
            seen.append(self.manager.step_output is not None)

    train(backend, make_batches((4, 4)), [Look()])
    assert seen == [(None, []), True, (None, []), True]
