"""Every layer inside the training model trains and evaluates as it should, whatever is passed on to it."""

import keras
import numpy as np
import pytest
from contract.backends.base import make_batches

from mlpug.callbacks import Callback
from mlpug.trainers import TrainingManager

RATE = 0.5
MOMENTUM = 0.9
SINGLE = {"rtol": 1e-5, "atol": 1e-6}  # sums over 8 values in single precision, whose epsilon is 1.2e-7


class Inner(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.norm, self.dropout = keras.layers.BatchNormalization(momentum=MOMENTUM), keras.layers.Dropout(RATE)

    def call(self, x):
        return self.norm(x), self.dropout(keras.ops.ones_like(x))


class Outer(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.inner = Inner()

    def call(self, x):
        return self.inner(x)


class TrainModel(keras.Model):
    def __init__(self):
        super().__init__()
        self.outer = Outer()

    def call(self, batch_data, evaluate_settings, inference_mode=None):
        normed, dropped = self.outer(keras.ops.cast(batch_data[0], "float32"))
        return keras.ops.mean(keras.ops.square(normed - 0.5)), keras.ops.shape(normed)[0], (normed, dropped)


class Keep(Callback):
    """Keeps what each batch gave, and the moving statistics after it."""

    def __init__(self, norm):
        self.norm, self.kept = norm, []

    def on_batch_training_completed(self, batch, logs):
        normed, dropped = self.manager.trainer.adapter.to_host(self.manager.step_output.auxiliary_results)
        self.kept.append((normed, dropped, *statistics_of(self.norm)))


def statistics_of(norm):
    return np.array(norm.moving_mean), np.array(norm.moving_variance)


@pytest.mark.parametrize("eager_mode", [False, True], ids=["compiled", "eager"])
def test_training_mode_reaches_every_layer(backend, eager_mode):
    model = TrainModel()
    norm = model.outer.inner.norm
    trainer = backend.mlp.trainers.DefaultTrainer(keras.optimizers.SGD(0.1), model, eager_mode=eager_mode)
    trainer.set_training_model(model)
    batches, keep = make_batches((8, 8, 8)), Keep(norm)
    TrainingManager(trainer, batches, callbacks=[keep]).start_training()

    moving_mean, moving_variance = np.zeros(6), np.ones(6)
    for (x, _), (_, dropped, mean, variance) in zip(batches, keep.kept, strict=True):
        moving_mean = MOMENTUM * moving_mean + (1 - MOMENTUM) * x.mean(axis=0)
        moving_variance = MOMENTUM * moving_variance + (1 - MOMENTUM) * x.var(axis=0)
        np.testing.assert_allclose(mean, moving_mean, **SINGLE)
        np.testing.assert_allclose(variance, moving_variance, **SINGLE)
        # what isn't dropped is scaled up; both kinds are there but for one in 2 ** 47
        assert sorted(set(dropped.flatten().tolist())) == [0.0, 1 / (1 - RATE)]
    x = batches[0][0]
    by_hand = (x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + norm.epsilon)
    np.testing.assert_allclose(keep.kept[0][0], by_hand, **SINGLE)
    assert not np.array_equal(keep.kept[0][1], keep.kept[1][1])  # drawn anew for each batch
    assert not np.allclose(np.array(norm.beta), 0)  # and it was trained


@pytest.mark.parametrize("eager_mode", [False, True], ids=["compiled", "eager"])
@pytest.mark.parametrize("is_trained", [False, True], ids=["before training", "after training"])
def test_in_evaluation_nothing_is_dropped_and_no_statistic_moves(backend, eager_mode, is_trained):
    model = TrainModel()
    norm = model.outer.inner.norm
    trainer = backend.mlp.trainers.DefaultTrainer(keras.optimizers.SGD(0.1), model, eager_mode=eager_mode)
    trainer.set_training_model(model)
    if is_trained:
        TrainingManager(trainer, make_batches((8, 8, 8))).start_training()
    x, y = make_batches((5,), seed=1)[0]
    for _ in range(2):
        output = trainer.adapter.evaluate((x, y), None)
        normed, dropped = trainer.adapter.to_host(output.auxiliary_results)
        mean, variance = statistics_of(norm)
        if not is_trained:
            np.testing.assert_array_equal(mean, 0)
            np.testing.assert_array_equal(variance, 1)
        gamma, beta = np.array(norm.gamma), np.array(norm.beta)
        by_hand = (x - mean) / np.sqrt(variance + norm.epsilon) * gamma + beta
        np.testing.assert_allclose(normed, by_hand, **SINGLE)
        np.testing.assert_array_equal(dropped, 1)
        np.testing.assert_allclose(trainer.adapter.to_host(output.loss), ((by_hand - 0.5) ** 2).mean(), rtol=1e-5)
    if is_trained:
        assert not np.allclose(mean, 0)
