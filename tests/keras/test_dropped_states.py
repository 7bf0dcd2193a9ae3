"""The state of a Keras callback that isn't there any more is dropped by name, in both ways to train."""

import importlib
import warnings

import keras
import numpy as np
import pytest

from mlpug.errors import MlpugWarning

mlp = importlib.import_module(f"mlpug.{keras.config.backend()}")
X, Y = np.ones((8, 2), np.float32), np.zeros((8, 1), np.float32)


class TrainModel(keras.Model):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def call(self, batch_data, evaluate_settings=None, inference_mode=False):
        return keras.ops.mean(keras.ops.square(self.net(batch_data)))


def manager_of(kind, num_epochs, callbacks):
    net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    if kind == "compiled_model":
        net.compile("sgd", "mse")
        trainer = mlp.trainers.DefaultTrainer.from_keras(net)
        data = [(X[:4], Y[:4]), (X[4:], Y[4:])]
        return mlp.trainers.TrainingManager(trainer, data, num_epochs=num_epochs, callbacks=callbacks)
    trainer = mlp.trainers.DefaultTrainer(optimizers=keras.optimizers.SGD(), model_components=net)
    manager = mlp.trainers.TrainingManager(trainer, [X[:4], X[4:]], num_epochs=num_epochs, callbacks=callbacks)
    trainer.set_training_model(TrainModel(net))
    return manager


def train(kind, folder, num_epochs, *callbacks):
    saves = mlp.callbacks.CheckpointManager(folder, "run", metric_to_monitor=None)
    manager = manager_of(kind, num_epochs, [*callbacks, saves])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        manager.start_training("auto")
    return [str(warning.message) for warning in caught if warning.category is MlpugWarning]


class Counts(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.count = 0

    def on_train_batch_end(self, batch, logs=None):
        self.count += 1


class Renamed(Counts):
    """Of another name, and so of another key."""


@pytest.mark.parametrize("kind", ["training_model", "compiled_model"])
def test_it_is_named(tmp_path, kind):
    assert train(kind, tmp_path, 1, Counts()) == []
    counts = Counts()
    assert train(kind, tmp_path, 2, counts) == []
    assert counts.count == 4
    renamed = Renamed()
    (told,) = train(kind, tmp_path, 3, renamed)
    assert "state of the callback 'Counts', which isn't among the callbacks" in told
    assert "'Renamed', which this run has" in told
    assert renamed.count == 2


def fit_and_go_on(folder, *, beside, resumed):
    """Two epochs of ``fit`` with as_native, and one by from_keras: what it warns of."""
    net = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    net.compile("sgd", "mse")
    saves = mlp.callbacks.CheckpointManager(folder, "run", batch_level=False, metric_to_monitor=None)
    net.fit(X, Y, batch_size=4, epochs=2, verbose=0, callbacks=[mlp.callbacks.as_native(saves), *beside])
    return train("compiled_model", folder, 3, *resumed)


def test_what_stood_beside_as_native_is_named_where_it_begins_anew(tmp_path):
    natives = keras.callbacks
    (told,) = fit_and_go_on(
        tmp_path,
        beside=[natives.EarlyStopping("loss"), Counts()],
        resumed=[natives.EarlyStopping("loss"), Counts(), natives.TerminateOnNaN()],
    )
    assert "no state of the callback 'EarlyStopping', the callback 'Counts': " in told
    assert "TerminateOnNaN" not in told


def test_nothing_is_told_where_nothing_begins_anew(tmp_path):
    natives = keras.callbacks
    assert fit_and_go_on(tmp_path, beside=[], resumed=[natives.TerminateOnNaN()]) == []
