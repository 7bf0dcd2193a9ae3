"""The run on mlpug's own loop: linear regression with noise, and data in random order."""

import random
import warnings
from typing import Any

import numpy as np
from reliability.runs.parts import Places, Record, Settings, WholeRun, manager_of

from mlpug.callbacks import Callback
from mlpug.testing import FakeNativeCallback, GradientDescent, LinearRegression, fake_trainer

KINDS = ("shuffled",)
NUM_SAMPLES, BATCH_SIZE, NUM_FEATURES = 22, 5, 3


def make(settings: Settings, passed: Places) -> WholeRun:
    """The run, and its start values, from the seed."""
    # Noise that isn't kept for later batches is drawn anew without harm; mlpug can't know that it isn't.
    warnings.filterwarnings("ignore", "The training dataset draws from the global random numbers")
    random.seed(settings.seed)
    np.random.seed(settings.seed)
    model = LinearRegression(NUM_FEATURES)
    model.parameters["weight"][...] = np.random.standard_normal(NUM_FEATURES)
    optimizer = GradientDescent(model.parameters, learning_rate=0.1)
    trainer = fake_trainer(optimizer, model)
    record = Record(settings.journal, list, passed)
    stop = StopWithoutProgress(settings.patience)
    of_host = [Decay(optimizer), stop, FakeNativeCallback(lambda event: event == "epoch_ended" and passed("native"))]
    validation = [Shuffled.batch(range(7))]
    manager = manager_of(settings, trainer, Shuffled(passed), validation, record, of_host, passed)
    trainer.set_training_model(TrainModel(model, passed))
    return WholeRun(manager, record, lambda: model.parameters, stop.get_state)


class Shuffled:
    """Batches in an order that comes from the global random state, and so do their values."""

    def __init__(self, passed: Places) -> None:
        self._passed = passed

    def __len__(self) -> int:
        return -(-NUM_SAMPLES // BATCH_SIZE)

    def __iter__(self) -> Any:
        order = np.random.permutation(NUM_SAMPLES)
        for start in range(0, NUM_SAMPLES, BATCH_SIZE):
            self._passed("data")
            ids, x, y = self.batch(order[start : start + BATCH_SIZE])
            yield ids, x + 0.01 * np.random.standard_normal(x.shape) + 0.01 * random.random(), y

    @staticmethod
    def batch(ids: Any) -> Any:
        ids = np.asarray(ids)
        x = np.sin(ids[:, np.newaxis] * np.arange(1, NUM_FEATURES + 1))
        return ids, x, x @ np.arange(NUM_FEATURES) + 1.0


class TrainModel:
    """Linear regression that sees its data through noise while it is trained."""

    def __init__(self, model: LinearRegression, passed: Places) -> None:
        self._model = model
        self._passed = passed

    @property
    def gradients(self) -> Any:
        return self._model.gradients

    def __call__(self, batch: Any, evaluate_settings: Any, inference_mode: bool = False) -> Any:
        _, x, y = batch
        if not inference_mode:
            self._passed("model")
            x = x + 0.1 * np.random.standard_normal(x.shape)
        return self._model((x, y), evaluate_settings, inference_mode)


class Decay(Callback):
    """A learning rate that depends on how many batches this callback has seen."""

    def __init__(self, optimizer: GradientDescent) -> None:
        self._optimizer = optimizer
        self._count = 0

    def on_batch_training_completed(self, batch: Any, logs: Any) -> None:
        self._count += 1
        self._optimizer.learning_rate = 0.1 * 0.95**self._count

    def get_state(self) -> Any:
        return {"count": self._count}

    def set_state(self, state: Any) -> None:
        self._count = state["count"]


class StopWithoutProgress(Callback):
    """Stops when the validation loss hasn't come down by 100 for some epochs: it never does."""

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._best = float("inf")
        self._waited = 0

    def on_epoch_completed(self, logs: Any) -> None:
        loss = logs.at("validation.dataset.loss")
        if loss < self._best - 100:
            self._best, self._waited = loss, 0
        else:
            self._waited += 1
        if self._waited >= self._patience:
            self.manager.stop_training()

    def get_state(self) -> Any:
        return {"best": self._best, "waited": self._waited}

    def set_state(self, state: Any) -> None:
        self._best, self._waited = state["best"], state["waited"]
