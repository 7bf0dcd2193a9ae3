"""What set_training_model takes on Keras, and what it says of a compiled model."""

import keras
import numpy as np
import pytest

from mlpug.errors import ConfigurationError
from mlpug.trainers import TrainingManager


class Predicting(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, x):
        return self.dense(x)


class ItsOwnStep(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def train_step(self, data):
        return {"loss": 0.0}


class Both(Predicting):
    def call(self, batch_data, evaluate_settings=None, inference_mode=False):
        return keras.ops.mean(self.dense(batch_data))


def functional():
    x = keras.Input((1,))
    return keras.Model(x, keras.layers.Dense(1)(x))


def scalar():
    """A graph that ends in a loss, as mlpug takes it."""
    x = keras.Input((1,))
    return keras.Model(x, keras.ops.mean(keras.layers.Dense(1, name="dense")(x)))


def sequential():
    return keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])


def without_input():
    return keras.Sequential([keras.layers.Dense(1)])


def trainer_of(backend, model):
    return type(backend.trainer())(keras.optimizers.SGD(0.1), model)


@pytest.mark.parametrize("make", [functional, sequential, without_input, Predicting, ItsOwnStep])
def test_a_compiled_model_is_refused_with_the_way_to_train_it(backend, make):
    model = make()
    model.compile("sgd", "mse")
    with pytest.raises(ConfigurationError) as caught:
        trainer_of(backend, model).set_training_model(model)
    message = str(caught.value)
    assert f"{type(model).__name__} is a compiled keras.Model: to train it as its own fit does, make the" in message
    assert "DefaultTrainer.from_keras(model), and leave out set_training_model, or write call(self," in message
    assert len(message) < 3 * 170


@pytest.mark.parametrize("make", [functional, sequential, Predicting, ItsOwnStep, keras.layers.Layer])
def test_a_model_that_cant_be_called_so_is_refused(backend, make):
    model = make()
    with pytest.raises(ConfigurationError, match=r"Write call\(self, batch_data") as caught:
        trainer_of(backend, model).set_training_model(model)
    assert "compiled" not in str(caught.value)


@pytest.mark.parametrize("compiles", [False, True])
@pytest.mark.parametrize("make", [Both, scalar])
def test_what_can_be_called_so_trains(backend, make, compiles):
    model = make()
    dense = model.dense if make is Both else model.get_layer("dense")
    if compiles:
        model.compile("sgd", "mse")
    if not dense.built:
        dense.build((None, 1))
    kernel = np.asarray(dense.kernel).item()
    trainer = trainer_of(backend, model)
    trainer.set_training_model(model)
    TrainingManager(trainer, [np.full((2, 1), 2.0, "float32")]).start_training()
    assert np.asarray(dense.kernel).item() == pytest.approx(kernel - 0.1 * 2.0)
