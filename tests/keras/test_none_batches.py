"""A batch that is None, of a list that `from_keras` is given: it is left out, and keeps its place in the data."""

import keras
import numpy as np
import pytest
from contract.keeper import Keeper

from mlpug.callbacks import Callback
from mlpug.errors import MlpugWarning
from mlpug.trainers import TrainingManager

FIRST, SECOND, THIRD = (
    (np.linspace(-1, 1, 8, dtype="float32").reshape(4, 2) * (1 + number), np.ones((4, 1), "float32"))
    for number in range(3)
)
WITH_NONE = [None, FIRST, None, None, SECOND, THIRD, None]


class Told(Callback):
    def __init__(self):
        self.told = []

    def on_batch_training_completed(self, batch, logs):
        current = logs["current"]
        self.told.append((len(batch[0]), current["batch_step"], current["global_iter"]))


def train(backend, data, keeper=(), resume_from=None, **options):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="ones")])
    model.compile(keras.optimizers.Adam(0.1), "mse")
    trainer, told = backend.mlp.trainers.DefaultTrainer.from_keras(model, **options), Told()
    manager = TrainingManager(trainer, data, num_epochs=2, callbacks=[told, *keeper])
    manager.start_training(resume_from=resume_from)
    return model.get_weights(), told.told


def assert_same(weights, expected):
    for weight, other in zip(weights, expected, strict=True):
        np.testing.assert_allclose(weight, other, rtol=1e-6)


def test_it_is_left_out(backend, tmp_path):
    keeper = Keeper(tmp_path)
    with pytest.warns(MlpugWarning, match="gave None for a batch"):
        weights, told = train(backend, WITH_NONE, [keeper])
    assert_same(weights, train(backend, [FIRST, SECOND, THIRD])[0])
    assert told == [(4, place, place + before) for before in (0, 7) for place in (1, 4, 5)]
    for path, _ in (keeper.saved[1], keeper.saved[3], keeper.saved[4]):  # within an epoch, between two, within the next
        with pytest.warns(MlpugWarning, match="gave None for a batch"):
            resumed, rest = train(backend, WITH_NONE, resume_from=path)
        assert_same(resumed, weights)
        assert rest == told[len(told) - len(rest) :]


def test_groups_are_made_of_the_others(backend):
    with pytest.warns(MlpugWarning, match="gave None for a batch"):
        weights, told = train(backend, WITH_NONE, gradient_accumulation_steps=2)
    joined = tuple(np.concatenate(parts) for parts in zip(SECOND, THIRD, strict=True))
    assert_same(weights, train(backend, [FIRST, joined])[0])
    assert told == [(4, 0, 0), (8, 2, 2), (4, 0, 4), (8, 2, 6)]
