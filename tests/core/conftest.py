"""What the core's tests share: small models, callbacks that write down what they see, and a training to run them in."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from core.tensorboard_server import Server

from mlpug.adapter import Process
from mlpug.callbacks import Callback
from mlpug.callbacks.callback import HOOKS
from mlpug.evaluation import MetricEvaluator
from mlpug.testing import GradientDescent, LinearRegression, fake_trainer
from mlpug.trainers import TrainingManager


class Returning:
    """A training model that returns what a function gives for the batch, and moves no weights."""

    def __init__(self, function):
        self.function = function
        self.gradients = {"weight": np.zeros(2), "bias": np.zeros(())}
        self.calls = []  # (evaluate_settings, inference_mode) of each call

    def __call__(self, batch_data, evaluate_settings, inference_mode=False):
        self.calls.append((evaluate_settings, inference_mode))
        return self.function(batch_data)


class DeviceScalar:
    """A scalar that counts how often its value leaves the device."""

    shape = ()

    def __init__(self, value):
        self.value = value
        self.reads = 0

    def __float__(self):
        self.reads += 1
        return float(self.value)


class StubAdapter:
    """A `FakeAdapter` of which some members are replaced."""

    def __init__(self, adapter, **members):
        self._adapter = adapter
        self._members = members

    def __getattr__(self, name):
        return self._members[name] if name in self._members else getattr(self._adapter, name)


class Journal(Callback):
    """Writes down each hook, with where training is."""

    def __init__(self):
        self.hooks = []
        self.places = []  # (hook, epoch, batch_step, global_iter)
        self.outcomes = []

    def _write(self, hook, logs):
        current = logs["current"]
        self.hooks.append(hook)
        self.places.append((hook, current["epoch"], current["batch_step"], current["global_iter"]))

    def on_training_start(self, logs):
        self._write("on_training_start", logs)

    def on_epoch_start(self, logs):
        self._write("on_epoch_start", logs)

    def on_batch_training_start(self, batch, logs):
        self._write("on_batch_training_start", logs)

    def on_batch_training_completed(self, batch, logs):
        self._write("on_batch_training_completed", logs)

    def on_epoch_completed(self, logs):
        self._write("on_epoch_completed", logs)

    def on_training_ended(self, logs, **outcome):
        self._write("on_training_ended", logs)
        self.outcomes.append(outcome)


@pytest.fixture
def journal():
    """A callback that writes down what it hears."""
    return Journal()


@pytest.fixture
def make_journal():
    """Makes more of them."""
    return Journal


@pytest.fixture
def callback_with():
    """Makes a callback of functions: ``callback_with(on_epoch_start=lambda logs: ...)``."""

    def make(**functions):
        assert set(functions) <= set(HOOKS)
        return type("Given", (Callback,), {name: staticmethod(hook) for name, hook in functions.items()})()

    return make


@pytest.fixture
def returning():
    """Makes a training model of a function of the batch."""
    return Returning


@pytest.fixture
def mean_model():
    """A training model for batches that are 1-d arrays: the loss is their mean, the predictions are the batch."""
    return Returning(lambda batch: (float(np.mean(batch)), len(batch), batch))


@pytest.fixture
def device_scalar():
    """Makes a scalar that counts how often it is read."""
    return DeviceScalar


@pytest.fixture
def stub_adapter():
    """Makes an adapter with some members replaced."""
    return StubAdapter


@pytest.fixture
def on_rank():
    """Makes an adapter that is another process of the run."""

    def make(adapter, rank, world_size=2):
        return StubAdapter(adapter, process=Process(rank, world_size))

    return make


@pytest.fixture
def make_trainer():
    """Makes a trainer for a training model; without one, for a linear regression on two features."""

    def make(training_model=None, learning_rate=0.05):
        model = LinearRegression(num_features=2)
        trainer = fake_trainer(GradientDescent(model.parameters, learning_rate=learning_rate), model)
        trainer.set_training_model(model if training_model is None else training_model)
        return trainer

    return make


@pytest.fixture
def make_manager(make_trainer):
    """Makes a manager that can start at once."""

    def make(dataset, callbacks=(), training_model=None, trainer=None, **options):
        return TrainingManager(trainer or make_trainer(training_model), dataset, callbacks=callbacks, **options)

    return make


@pytest.fixture
def train(make_manager, mean_model):
    """Trains a model that moves no weights on batches that are 1-d arrays, and gives the manager."""

    def run(dataset, callbacks=(), training_model=None, **options):
        manager = make_manager(dataset, callbacks, training_model or mean_model, **options)
        manager.start_training()
        return manager

    return run


@pytest.fixture
def evaluator():
    """An evaluator of the loss: the mean of a batch that is a 1-d array."""
    return MetricEvaluator(model_evaluate_func=lambda batch, **_: (float(np.mean(batch)), len(batch), batch))


@pytest.fixture
def arrays():
    """Makes random 1-d batches of given lengths."""
    random = np.random.default_rng(3)

    def make(*lengths):
        return [random.normal(size=length) for length in lengths]

    return make


@pytest.fixture
def regression_batches():
    """Makes random (x, y) batches of given lengths, two features each."""
    random = np.random.default_rng(5)

    def make(*lengths):
        return [(random.normal(size=(length, 2)), random.normal(size=length)) for length in lengths]

    return make


@pytest.fixture
def run_python():
    """Runs a program in a process of its own."""

    def run(program, stdout=subprocess.PIPE, **environment):
        inherited = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "PYTHONIOENCODING")}
        return subprocess.run(
            [sys.executable, "-c", program],
            env={**inherited, **environment},
            stdout=stdout,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture
def serve():
    """Starts TensorBoard servers: ``serve(directory, *options)``."""
    servers = []

    def start(directory, *options):
        servers.append(Server(directory, *options))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
