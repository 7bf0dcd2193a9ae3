"""Mistakes in what is put together are errors when the manager is made, with what came and the cure."""

import numpy as np
import pytest

from mlpug.callbacks import BatchSizeLogger, Callback, LogProgress
from mlpug.errors import ConfigurationError
from mlpug.testing import FakeAdapter, FakeNativeCallback, GradientDescent, LinearRegression, fake_trainer
from mlpug.trainers import DefaultTrainer, TrainingManager

DATASET = [np.ones(1)]


class Counts(Callback):
    """A callback with state."""

    def __init__(self, name=None):
        self._name = name

    @property
    def name(self):
        return self._name or super().name

    def get_state(self):
        return 0


def refused(make_manager, callbacks, message, **options):
    with pytest.raises(ConfigurationError, match=message) as raised:
        make_manager(DATASET, callbacks, **options)
    return str(raised.value)


@pytest.mark.parametrize("stranger", [object(), len, "LogProgress", None])
def test_a_callback_is_mlpugs_or_the_host_trainers(make_manager, stranger):
    message = refused(make_manager, [stranger], "must be mlpug callbacks or callbacks of the host trainer, not")

    assert repr(stranger) in message
    assert "derive it from mlp.callbacks.Callback" in message


@pytest.mark.parametrize("kind", [LogProgress, FakeNativeCallback])
def test_a_callback_is_an_instance_not_a_class(make_manager, kind):
    assert repr(kind) in refused(make_manager, [kind], "call it: pass an instance, not the class")


@pytest.mark.parametrize("make", [LogProgress, lambda: FakeNativeCallback(print)], ids=["mlpug", "native"])
def test_the_same_callback_stands_in_the_list_once(make_manager, make):
    callback = make()

    assert repr(callback) in refused(make_manager, [callback, callback], "is in callbacks twice")
    make_manager(DATASET, [make(), make()])  # two of a kind are fine


def test_callbacks_with_state_need_different_names(make_manager):
    assert "give each another `name`" in refused(make_manager, [Counts(), Counts()], "under the same name, 'Counts'")
    make_manager(DATASET, [Counts(), Counts("other")])


def test_a_misspelled_hook_of_a_class_is_refused_with_the_likely_one(make_manager):
    class Misspelled(Callback):
        def on_epoch_complete(self, logs):
            pass

    message = refused(make_manager, [Misspelled()], "Misspelled.on_epoch_complete is not a hook")

    assert "Did you mean on_epoch_completed?" in message
    assert "The hooks are on_training_start, on_epoch_start, on_batch_training_start" in message


def test_a_misspelled_hook_of_an_instance_is_refused(make_manager):
    callback = Callback()
    callback.on_traning_start = lambda logs: None

    refused(make_manager, [callback], "on_traning_start is not a hook.*Did you mean on_training_start?")


def test_a_name_like_no_hook_gets_no_guess(make_manager):
    class Switch(Callback):
        def on_off(self):
            pass

    assert "Did you mean" not in refused(make_manager, [Switch()], "Switch.on_off is not a hook")


def test_an_attribute_that_begins_like_a_hook_but_is_no_method_is_fine(make_manager):
    callback = Callback()
    callback.on_gpu = True

    assert make_manager(DATASET, [callback])


@pytest.mark.parametrize(
    ("hook", "method", "expected"),
    [
        ("on_epoch_start", lambda self: None, "(self, logs)"),
        ("on_batch_training_start", lambda self, logs: None, "(self, batch, logs)"),
        ("on_batch_training_completed", lambda self, batch, logs, loss: None, "(self, batch, logs)"),
        (
            "on_training_ended",
            lambda self, logs: None,
            "(self, logs, stopped_early, stopped_on_error, interrupted, callback_calls_success)",
        ),
        ("on_epoch_completed", None, "(self, logs)"),
    ],
)
def test_a_hook_that_cannot_be_called_as_hooks_are_is_refused(make_manager, hook, method, expected):
    callback = type("Wrong", (Callback,), {hook: method})()

    assert expected in refused(make_manager, [callback], f"Wrong.{hook} must take ")


def test_a_hook_may_take_more_than_it_needs_in_its_own_way(train):
    class Own(Callback):
        def on_epoch_start(self, logs, more=None):
            self.started = True

        def on_batch_training_completed(self, *arguments):
            self.num_arguments = len(arguments)

        def on_training_ended(self, logs, interrupted, **outcome):
            self.interrupted = interrupted

    own = Own()
    train(DATASET, [own])

    assert (own.started, own.num_arguments, own.interrupted) == (True, 2, False)


def test_a_metric_path_that_nobody_writes_is_refused_with_those_that_are_written(make_manager):
    class Monitor(Callback):
        def required_metric_paths(self):
            return ["validation.dataset.loss"]

    message = refused(make_manager, [Monitor(), BatchSizeLogger()], "Monitor needs the metric path 'validation.data")

    assert "training_params.batch.size" in message
    assert "name the path in its metric_paths()" in message


@pytest.mark.parametrize("path", ["mine", "mine.dataset", "mine.dataset.f1", "mine.dataset.f1.cat"])
def test_a_required_path_may_be_a_beginning_of_a_written_one_or_lie_below_it(make_manager, path):
    writer, needy = Callback(), Callback()
    writer.metric_paths = lambda: ["mine.dataset.f1"]
    needy.required_metric_paths = lambda: [path]

    assert make_manager(DATASET, [needy, writer])


def test_a_path_that_only_begins_with_the_same_letters_is_another(make_manager):
    writer, needy = Callback(), Callback()
    writer.metric_paths = lambda: ["mine.dataset.f1_macro"]
    needy.required_metric_paths = lambda: ["mine.dataset.f1"]

    refused(make_manager, [writer, needy], "'mine.dataset.f1', which nobody writes")


@pytest.mark.parametrize("policy", ["ignore", None, True])
def test_an_error_policy_is_raise_or_log(make_manager, policy):
    refused(make_manager, [], f'on_callback_error must be "raise" or "log", not {policy!r}', on_callback_error=policy)


def test_the_trainer_must_be_a_trainer():
    with pytest.raises(ConfigurationError, match=r"trainer must be an mlp.trainers.DefaultTrainer, not <object"):
        TrainingManager(object(), DATASET)


def test_training_needs_a_training_model():
    model = LinearRegression(1)
    trainer = fake_trainer(GradientDescent(model.parameters), model)
    with pytest.raises(ConfigurationError, match=r"no training model: call trainer.set_training_model\(train_model\)"):
        TrainingManager(trainer, DATASET).start_training()


def test_the_training_model_may_be_set_after_the_manager_is_made(make_trainer, regression_batches):
    trainer = make_trainer()
    model, trainer.training_model = trainer.training_model, None
    manager = TrainingManager(trainer, regression_batches(2))
    trainer.set_training_model(model)
    manager.start_training()

    assert model.parameters["bias"] != 0


def test_a_backend_refuses_a_training_model_that_it_cannot_train(make_trainer):
    with pytest.raises(ConfigurationError, match="must be callable, not a str"):
        make_trainer().set_training_model("model")


def test_a_manager_trains_once(train):
    manager = train(DATASET)
    with pytest.raises(ConfigurationError, match="has trained already: make a new one to train again"):
        manager.start_training()


def test_an_optimizer_needs_parameters():
    with pytest.raises(
        ConfigurationError, match="The optimizer 'critic' has no parameters: give it those of the model"
    ):
        fake_trainer({"critic": GradientDescent({})})


@pytest.mark.parametrize("optimizers", [None, {}, {"optimizer": None}])
def test_a_trainer_needs_an_optimizer(optimizers):
    with pytest.raises(ConfigurationError, match="optimizers must be an object or a dict of objects by name, not"):
        DefaultTrainer(FakeAdapter({}), optimizers)


def test_names_of_optimizers_and_components_are_strings():
    optimizer = GradientDescent({"weight": np.zeros(1)})
    with pytest.raises(ConfigurationError, match="The names in optimizers must be strings, not 1"):
        DefaultTrainer(FakeAdapter({}), {1: optimizer})
    with pytest.raises(ConfigurationError, match="The names in model_components must be strings, not 1"):
        DefaultTrainer(FakeAdapter({}), optimizer, {1: "encoder"})


def test_one_or_several_optimizers_and_components_have_names():
    model = LinearRegression(1)
    one = fake_trainer(GradientDescent(model.parameters), model)
    several = fake_trainer({"a": GradientDescent(model.parameters)}, {"encoder": model, "decoder": model})

    assert (list(one.optimizers), list(one.model_components)) == (["optimizer"], ["model"])
    assert (list(several.optimizers), list(several.model_components)) == (["a"], ["encoder", "decoder"])
    assert (one.process.rank, one.process.world_size) == (0, 1)
