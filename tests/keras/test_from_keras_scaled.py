"""A compiled model whose loss is scaled for float16: a batch whose gradients aren't finite changes no weight."""

import keras
import numpy as np
import pytest
from compiled_models import NativeRun, PortedRun, arrays, assert_same_weights, layers, own_train_step

from mlpug.callbacks import Callback

OVERFLOWING = 2  # of the batches of an epoch
DID_UPDATE = [True, True, False, True]


class Flags(Callback):
    def __init__(self):
        self.seen = []

    def on_batch_training_completed(self, batch, logs):
        self.seen.append(logs["current"]["training"]["batch"]["did_update_model"])


def data():
    x, y = arrays(24)
    x[6 * OVERFLOWING] = np.inf
    return x, y


def scaled():
    model = keras.Sequential([keras.Input((5,)), *layers()[:2], keras.layers.Dense(3)])
    model.compile(
        keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.02)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def scaled_eagerly():
    model = scaled()
    model.compile(model.optimizer, loss=model.loss, run_eagerly=True)
    return model


def scaled_own_train_step():
    model = own_train_step()
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.02)))
    return model


@pytest.mark.parametrize("make", [scaled, scaled_own_train_step, scaled_eagerly])
def test_a_step_that_the_optimizer_leaves_out_is_no_update(backend, make):
    flags = Flags()
    options = {"batch_size": 6, "shuffle": False}
    native = NativeRun(make, data, num_epochs=2, **options)
    ported = PortedRun(backend.mlp, make, data, callbacks=[flags], num_epochs=2, **options).start()
    assert flags.seen == DID_UPDATE * 2
    assert_same_weights(ported.model, native.model)


def test_in_chunks_too(backend):
    flags = Flags()
    options = {"batch_size": 6, "shuffle": False, "batch_chunk_size": 2}
    PortedRun(backend.mlp, scaled, data, callbacks=[flags], num_epochs=2, **options).start()
    assert flags.seen == DID_UPDATE * 2


def test_in_a_native_run_too(backend):
    flags = Flags()
    NativeRun(scaled, data, [backend.mlp.callbacks.as_native(flags)], num_epochs=2, batch_size=6, shuffle=False)
    assert flags.seen == DID_UPDATE * 2
