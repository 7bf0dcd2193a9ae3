"""Models and optimizers whose variables aren't there yet are built by the first batch."""

import keras
import numpy as np
import pytest
from contract.backends.base import make_batches

from mlpug.evaluation import MetricEvaluator
from mlpug.trainers import TrainingManager

LEARNING_RATE, MOMENTUM = 0.05, 0.9


class TrainModel(keras.Model):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def call(self, batch_data, evaluate_settings, inference_mode=None):
        x, y = batch_data
        predictions = keras.ops.squeeze(self.model(keras.ops.cast(x, "float32")), axis=1)
        return keras.ops.mean(keras.ops.square(predictions - keras.ops.cast(y, "float32"))), keras.ops.shape(x)[0]


class Nested(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.model = keras.Sequential([Zeros()])

    def call(self, x):
        return self.model(x)


def Zeros():  # noqa: N802 - a layer, whose weights are known before they are there
    return keras.layers.Dense(1, kernel_initializer="zeros")


def built_sequential():
    return keras.Sequential([keras.Input((6,)), Zeros()])


MODELS = {
    "sequential without input": lambda: keras.Sequential([Zeros()]),
    "layer": Zeros,
    "nested": Nested,
    "built": built_sequential,
}


@pytest.mark.parametrize("eager_mode", [False, True], ids=["compiled", "eager"])
@pytest.mark.parametrize("evaluates_first", [False, True], ids=["fit", "evaluate and fit"])
@pytest.mark.parametrize("kind", MODELS)
def test_the_first_batch_builds_model_and_optimizer(backend, kind, evaluates_first, eager_mode, train_by_hand):
    model = MODELS[kind]()
    assert bool(model.weights) == (kind == "built")
    optimizer = keras.optimizers.SGD(LEARNING_RATE, momentum=MOMENTUM)
    trainer = backend.mlp.trainers.DefaultTrainer(optimizer, model, eager_mode=eager_mode)
    trainer.set_training_model(TrainModel(model))
    batches, by_hand = make_batches(), train_by_hand(np.zeros(6), 0.0, LEARNING_RATE, MOMENTUM)
    if evaluates_first:
        loss = MetricEvaluator(trainer=trainer).evaluate_dataset(batches)["loss"]
        targets = np.concatenate([y for _, y in batches])
        assert loss == pytest.approx((targets**2).mean(), rel=1e-6)  # summed in single precision, epsilon 1.2e-7
        for weight in model.get_weights():
            np.testing.assert_array_equal(weight, 0)
    TrainingManager(trainer, batches, num_epochs=2).start_training()
    for _ in range(2):
        for x, y in batches:
            by_hand.step(x, y)
    kernel, bias = model.get_weights()
    # eight steps in single precision, each of sums over 8 values
    np.testing.assert_allclose(kernel[:, 0], by_hand.kernel, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(bias, [by_hand.bias], rtol=1e-5, atol=1e-6)
    assert optimizer.built
    assert int(optimizer.iterations) == 8


def test_an_optimizer_that_is_built_already_trains_a_model_that_is(backend, train_by_hand):
    model = built_sequential()
    optimizer = keras.optimizers.SGD(LEARNING_RATE, momentum=MOMENTUM)
    optimizer.build(model.trainable_variables)
    trainer = backend.mlp.trainers.DefaultTrainer(optimizer, model)
    trainer.set_training_model(TrainModel(model))
    batches, by_hand = make_batches(), train_by_hand(np.zeros(6), 0.0, LEARNING_RATE, MOMENTUM)
    TrainingManager(trainer, batches).start_training()
    for x, y in batches:
        by_hand.step(x, y)
    np.testing.assert_allclose(model.get_weights()[0][:, 0], by_hand.kernel, rtol=1e-5, atol=1e-6)
