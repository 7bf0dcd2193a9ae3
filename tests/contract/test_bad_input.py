"""What can be known before the first batch is refused before it, in the same words on every backend."""

import functools
import warnings

import pytest
from contract.backends.base import make_batches

from mlpug.callbacks import Callback, LogProgress
from mlpug.errors import ConfigurationError, DatasetError, MlpugWarning
from mlpug.trainers import TrainingManager


class Misspelled(Callback):
    def on_epoch_end(self, logs):
        """Never called."""


class WithState(Callback):
    def get_state(self):
        return {"seen": 0}


class NeedsMetric(Callback):
    def required_metric_paths(self):
        return ["validation.dataset.acuracy"]


MISTAKES = {
    "dataset not iterable": ({"training_dataset": 3}, ConfigurationError, "must be an iterable of batches, not a int"),
    "empty dataset": ({"training_dataset": []}, DatasetError, "The training dataset is empty: it has no batches"),
    "no epochs": ({"num_epochs": 0}, ConfigurationError, "num_epochs must be a whole number of at least 1, not 0"),
    "no batches": (
        {"num_batches_per_epoch": -1},
        ConfigurationError,
        "num_batches_per_epoch must be a whole number of at least 1, not -1",
    ),
    "foreign callback": (
        {"callbacks": [object()]},
        ConfigurationError,
        "callbacks must be mlpug callbacks or callbacks of the host trainer, not <object",
    ),
    "states that collide": (
        {"callbacks": [WithState(), WithState()]},
        ConfigurationError,
        "would keep their state under the same name, 'WithState'",
    ),
    "misspelled hook": (
        {"callbacks": [Misspelled()]},
        ConfigurationError,
        "Misspelled.on_epoch_end is not a hook, so it would never be called. Did you mean on_epoch_",
    ),
    "unknown metric path": (
        {"callbacks": [NeedsMetric()]},
        ConfigurationError,
        "NeedsMetric needs the metric path 'validation.dataset.acuracy', which nobody writes",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_when_the_manager_is_made(backend, mistake):
    arguments, error, words = MISTAKES[mistake]
    with pytest.raises(error) as caught:
        TrainingManager(backend.trainer(), **{"training_dataset": make_batches(), **arguments})
    assert words in str(caught.value)


def test_a_log_period_below_1_is_refused_when_the_callback_is_made(backend):
    with pytest.raises(ConfigurationError, match="log_period must be a whole number of at least 1, not -1"):
        LogProgress(log_period=-1)


def test_an_optimizer_without_parameters_is_refused_before_training(backend):
    with pytest.raises(ConfigurationError, match=r"^The optimizer 'optimizer' has no parameters: "):
        backend.without_parameters()


def test_a_dataset_that_ends_early_ends_the_epoch_there_and_warns_once(backend):
    trainer = backend.trainer()
    steps = []

    class Steps(Callback):
        def on_batch_training_completed(self, batch, logs):
            steps.append((logs["current"]["epoch"], logs["current"]["batch_step"]))

    class Unsized:
        def __iter__(self):
            return iter(make_batches((4, 4)))

    trainer.set_training_model(backend.training_model())
    manager = TrainingManager(trainer, Unsized(), num_epochs=3, num_batches_per_epoch=5, callbacks=[Steps()])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        manager.start_training()
    ours = [warning for warning in caught if warning.category is MlpugWarning]
    assert len(ours) == 1
    assert "ended after 2 batches in epoch 0, before num_batches_per_epoch=5" in str(ours[0].message)
    assert steps == [(epoch, step) for epoch in range(3) for step in range(2)]


def called_as(backend, call):
    """The backend's training model with another method in the place of the one that is called."""
    model = backend.training_model()
    (name,) = {"forward", "call", "__call__"} & set(vars(type(model)))
    model.__class__ = type("Net", (type(model),), {name: call})
    return model, name


@pytest.mark.parametrize(
    "call",
    [
        lambda self, batch: 0.5,
        lambda self, batch, training=None: 0.5,
        lambda self, batch, inference_mode: 0.5,
        lambda self, x, y, evaluate_settings=None, inference_mode=False: 0.5,
    ],
    ids=["a batch", "as keras calls", "half", "two parts"],
)
def test_a_training_model_that_cant_be_called_so_is_refused_when_it_is_set(backend, call):
    model, name = called_as(backend, call)
    with pytest.raises(ConfigurationError) as caught:
        backend.trainer().set_training_model(model)
    message = str(caught.value)
    assert "called as training_model(batch_data, evaluate_settings=..., inference_mode=...)" in message
    assert f"Net.{name}(" in message
    assert f"Write {name}(self, batch_data, evaluate_settings=None, inference_mode=False), which" in message
    assert len(message) < 3 * 160


def adding_what_is_missing(call):
    """A decorator as users write them: what is called takes more than what it wraps."""

    @functools.wraps(call)
    def wrapped(self, batch, *, evaluate_settings=None, inference_mode=False):
        return call(self, batch)

    return wrapped


@pytest.mark.parametrize(
    "call",
    [
        lambda self, batch, **others: 0.5,
        lambda self, *batch, **others: 0.5,
        lambda self, x, inference_mode, evaluate_settings, more=1: 0.5,
        adding_what_is_missing(lambda self, batch: 0.5),
        functools.partialmethod(lambda self, more, batch, evaluate_settings, inference_mode: 0.5, 1),
    ],
    ids=["named ones", "any", "another order", "decorated", "partial"],
)
def test_a_training_model_may_take_its_arguments_in_any_way(backend, call):
    trainer = backend.trainer()
    model, _ = called_as(backend, call)
    trainer.set_training_model(model)
    assert trainer.training_model is model
