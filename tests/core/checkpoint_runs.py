"""Trainings with a CheckpointManager, whose only weight is the number of batches that it was trained on."""

import os
from pathlib import Path

import numpy as np

from mlpug import checkpoints
from mlpug.callbacks import Callback, CheckpointManager
from mlpug.testing import GradientDescent, fake_trainer
from mlpug.trainers import TrainingManager

LATEST, BEST = "run-latest-model-checkpoint.safetensors", "run-best-model-checkpoint.safetensors"


TRAINING = "run-training-checkpoint.safetensors"


METRIC = "validation.dataset.loss"


ONLY_BEST = {"metric_monitor_period": 1, "create_latest_model_checkpoint": False, "create_training_checkpoint": False}


class Counting:
    """A training model with one weight: the number of batches that it was trained on."""

    def __init__(self):
        self.parameters = {"count": np.zeros(())}
        self.gradients = {"count": np.array(-1.0)}

    def __call__(self, batch_data, evaluate_settings, inference_mode=False):
        return float(batch_data), 1


class Metric(Callback):
    """Writes a value for each batch, or each epoch, to the logs."""

    def __init__(self, values, batch_level=True):
        self.values, self.batch_level = values, batch_level

    def metric_paths(self):
        return [METRIC]

    def _write(self, logs, index):
        logs["current"].child("validation").child("dataset")["loss"] = self.values[index]

    def on_batch_training_completed(self, batch, logs):
        if self.batch_level:
            self._write(logs, self.manager.global_iter - 1)

    def on_epoch_completed(self, logs):
        if not self.batch_level:
            self._write(logs, logs["current"]["epoch"])


class Watch(Callback):
    """Looks, at each rest, at the files, and at what the logs say."""

    def __init__(self, directory=None):
        self.directory = directory
        self.rests = []  # (batches done, is_last, {file: batches it was trained on})
        self.best = []  # batches at which is_best was True

    def on_batch_training_completed(self, batch, logs):
        if logs["current"]["is_best"]:
            self.best.append(self.manager.global_iter)

    def on_rest(self, logs, is_last):
        if self.directory is not None:
            self.rests.append((self.manager.global_iter, is_last, contents(self.directory)))


class StopAt(Callback):
    """Stops after a number of batches."""

    def __init__(self, global_iter):
        self.global_iter = global_iter

    def on_batch_training_completed(self, batch, logs):
        if self.manager.global_iter == self.global_iter:
            self.manager.stop_training()


def contents(directory):
    """Which batch each whole checkpoint is of."""
    return {path.name: count_in(path) for path in sorted(Path(directory).glob("[!.]*"))}


def count_in(path):
    return int(checkpoints.load(path)["model"]["model"]["count"])


def manager_of(callbacks, num_batches=6, num_epochs=1, **options):
    model = Counting()
    trainer = fake_trainer(GradientDescent(model.parameters, learning_rate=1.0), model)
    trainer.set_training_model(model)
    return TrainingManager(trainer, [0.0] * num_batches, num_epochs=num_epochs, callbacks=callbacks, **options)


def failing_at(monkeypatch, call, number):
    """Let the n-th call of this function of the operating system fail, as a kill or a full disk would."""
    real, calls = getattr(os, call), []

    def fails(*arguments, **more):
        calls.append(arguments)
        if len(calls) == number:
            raise OSError(5, "Input/output error")
        return real(*arguments, **more)

    monkeypatch.setattr(os, call, fails)
    return calls


EVERYTHING = {
    "metric_monitor_period": 1,
    "create_checkpoint_every": 1,
    "archive_last_model_checkpoint_every": 1,
    "keep_archived": 1,
}


def watched_run(directory, values=None, num_batches=6, num_epochs=1, extra=(), **options):
    """Trains with a CheckpointManager, and gives what watched; `values` are those of the metric."""
    options = {"base_checkpoint_filename": "run", **options}
    if values is None:
        options["metric_to_monitor"] = None
    saves = CheckpointManager(directory, **options)
    watch = Watch(directory)
    metric = Metric([0.0] * 99 if values is None else values, options.get("batch_level", True))
    watch.run = manager_of([metric, saves, watch, *extra], num_batches, num_epochs)
    watch.run.start_training()
    return watch
