"""What somebody writes wrong at the first try is answered in a sentence, below a traceback of a few lines."""

import traceback

import pytest
from contract.backends.base import make_batches

from mlpug.callbacks import Callback, CheckpointManager, LogProgress
from mlpug.errors import ConfigurationError, DatasetError
from mlpug.trainers import TrainingManager


class Named(Callback):
    def __init__(self):
        super().__init__(name="mine")


class NoHook(Named):
    def on_batch_completed(self, batch, logs):
        """Never called."""


class Typo(Named):
    def on_batch_training_completed(self, batch, logs):
        logs.at("training.batch.los")


class Nothing:
    def __iter__(self):
        return iter(())


MISTAKES = {
    "a set name": (lambda _: {"callbacks": [LogProgress(set_names=["validaton"])]}, ConfigurationError, "'validaton'"),
    "a metric path": (
        lambda folder: {"callbacks": [CheckpointManager(folder, metric_to_monitor="validaton.dataset.loss")]},
        ConfigurationError,
        "needs the metric path 'validaton.dataset.loss', which nobody writes",
    ),
    "a path": (lambda _: {"callbacks": [Typo()]}, ConfigurationError, "Did you mean training.batch.loss?"),
    "a hook": (lambda _: {"callbacks": [NoHook()]}, ConfigurationError, "of 'mine' is not a hook"),
    "no batches": (lambda _: {"training_dataset": Nothing()}, DatasetError, "gave no batches in epoch 0"),
    "an iterator": (
        lambda _: {"training_dataset": iter(make_batches()), "num_epochs": 2},
        DatasetError,
        "gave no batches in epoch 1. If it is an iterator, it can be read only once: pass a data loader, a list",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_first_mistake_is_answered_in_a_few_lines(backend, tmp_path, mistake):
    arguments, kind, words = MISTAKES[mistake]
    trainer = backend.trainer()
    trainer.set_training_model(backend.training_model())
    with pytest.raises(kind) as caught:
        TrainingManager(trainer, **{"training_dataset": make_batches(), **arguments(tmp_path)}).start_training()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len("".join(traceback.format_exception(caught.value)).splitlines()) < 20
