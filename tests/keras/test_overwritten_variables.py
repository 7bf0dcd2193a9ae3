"""What Keras assigns to a variable as its gradient, as to the scales of float8, is neither clipped nor averaged."""

import math

import keras
import numpy as np
import pytest
from contract.backends.base import NUM_FEATURES, make_batches
from keras import ops

from mlpug.callbacks import Callback
from mlpug.trainers import TrainingManager

SIZES, RATE = (6, 5), 0.05
SINGLE = {"rtol": 1e-5, "atol": 1e-6}  # sums of a few single-precision numbers
OPTIONS = [
    {},
    {"batch_chunk_size": 2},
    {"gradient_clip_norm": 0.1},
    {"gradient_clip_value": 0.01},
    {"batch_chunk_size": 4, "gradient_clip_norm": 0.1},
]


class Largest(keras.layers.Layer):
    """Hands on what it gets, and remembers the largest number of the latest batch."""

    def build(self, shape):
        self.value = self.add_weight(shape=(), initializer="zeros", autocast=False)
        self.value.overwrite_with_gradient = True

    def call(self, x):
        @ops.custom_gradient
        def noting(x, value):
            def gradient(*arguments, upstream=None):
                return (arguments[0] if upstream is None else upstream), ops.max(x)

            return x, gradient

        return noting(x, ops.convert_to_tensor(self.value))


class TrainModel(keras.Model):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def call(self, batch_data, evaluate_settings=None, inference_mode=None):
        x, y = (ops.cast(part, "float32") for part in batch_data)
        return ops.mean(ops.square(self.net(x)[:, 0] - y))


class Record(Callback):
    def __init__(self, layer):
        self.layer, self.seen, self.norms = layer, [], []

    def on_batch_training_completed(self, batch, logs):
        self.seen.append(float(ops.convert_to_numpy(self.layer.value)))
        self.norms.append(logs["current"]["training"]["batch"].get("gradient_norm"))


def train(backend, net, callbacks=(), **options):
    trainer = backend.mlp.trainers.DefaultTrainer(
        keras.optimizers.SGD(RATE, loss_scale_factor=64.0), net, eager_mode=backend.eager_mode, **options
    )
    trainer.set_training_model(TrainModel(net))
    TrainingManager(trainer, make_batches(SIZES), num_epochs=2, callbacks=list(callbacks)).start_training()


def by_formula(options):
    """The weights, and the norms of the gradients, in double precision."""
    weights, norms = np.zeros(NUM_FEATURES + 1), []
    for x, y in make_batches(SIZES) * 2:
        features = np.column_stack([x, np.ones(len(x))])
        gradient = 2 * features.T @ (features @ weights - y) / len(y)
        norms.append(np.linalg.norm(gradient))
        gradient = gradient * min(1.0, options.get("gradient_clip_norm", math.inf) / norms[-1])
        limit = options.get("gradient_clip_value", math.inf)
        weights = weights - RATE * gradient.clip(-limit, limit)
    return weights, norms


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_they_are_those_of_the_whole_batch(backend, options):
    layer = Largest()
    net = keras.Sequential([keras.Input((NUM_FEATURES,)), layer, keras.layers.Dense(1, kernel_initializer="zeros")])
    record = Record(layer)
    train(backend, net, [record], **options)
    np.testing.assert_allclose(record.seen, [x.max() for x, _ in make_batches(SIZES)] * 2, **SINGLE)
    weights, norms = by_formula(options)
    np.testing.assert_allclose(np.append(*net.layers[-1].get_weights()), weights, **SINGLE)
    if "gradient_clip_norm" in options:
        np.testing.assert_allclose(record.norms, norms, **SINGLE)


@pytest.mark.parametrize(
    "options", [{"batch_chunk_size": 100}, {"gradient_clip_norm": math.inf}, {"gradient_clip_norm": 1e-3}], ids=str
)
def test_float8_scales_are_what_they_are_without_an_option(backend, options):
    found = []
    for given in ({}, options):
        keras.utils.set_random_seed(2)
        net = keras.Sequential([keras.Input((NUM_FEATURES,)), keras.layers.Dense(16), keras.layers.Dense(1)])
        net.layers[0].quantize("float8")
        trainer = backend.mlp.trainers.DefaultTrainer(keras.optimizers.SGD(RATE), net, **given)
        trainer.set_training_model(TrainModel(net))
        TrainingManager(trainer, make_batches(SIZES[:1]), num_epochs=1).start_training()
        scales = [weight for weight in net.weights if weight.overwrite_with_gradient]
        found.append([ops.convert_to_numpy(weight) for weight in scales])
    assert len(found[0]) == 6
    assert any(np.abs(scale).max() > 0 for scale in found[0])
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
