"""Losses of regularizers and of `add_loss` are in the loss where the training model puts them there, and only there."""

import keras
import numpy as np
import pytest
from contract.backends.base import NUM_FEATURES, make_batches
from keras import ops

from mlpug.callbacks import Callback, TestMetricsLogger
from mlpug.evaluation import MetricEvaluator
from mlpug.trainers import TrainingManager

FACTORS = {"kernel": 0.3, "bias": 0.2, "activity": 0.1, "add_loss": 0.4, "own add_loss": 0.5}  # of each kind of loss
RATE = 0.05
SINGLE = {"rtol": 1e-5, "atol": 1e-6}  # sums over 8 values in single precision, whose epsilon is 1.2e-7
SIZES, VALIDATION_SIZES = (8, 8, 5, 8), (8, 5)


class Linear(keras.layers.Layer):
    def __init__(self, kinds):
        super().__init__()
        regularizers = {
            f"{kind}_regularizer": keras.regularizers.L2(FACTORS[kind])
            for kind in ("kernel", "bias", "activity")
            if kind in kinds
        }
        first = {"kernel_initializer": keras.initializers.Constant(0.5), "bias_initializer": "ones"}
        self.dense, self.adds_loss = keras.layers.Dense(1, **first, **regularizers), "add_loss" in kinds

    def call(self, x):
        predictions = self.dense(x)[:, 0]
        if self.adds_loss:
            self.add_loss(FACTORS["add_loss"] * ops.mean(predictions))
        return predictions


class TrainModel(keras.Model):
    """The mean squared error, and the losses that `losses_of(self)` gives."""

    def __init__(self, kinds, losses_of):
        super().__init__()
        self.linear, self.losses_of, self.adds_loss = Linear(kinds), losses_of, "own add_loss" in kinds

    def call(self, batch_data, evaluate_settings, inference_mode=None):
        x, y = (ops.cast(array, "float32") for array in batch_data)
        errors = self.linear(x) - y
        if self.adds_loss:
            self.add_loss(FACTORS["own add_loss"] * ops.mean(errors))
        return ops.mean(ops.square(errors)) + sum(self.losses_of(self))


class ByHand:
    """The same by formulas, in double precision."""

    def __init__(self, kinds):
        self.kernel, self.bias = np.full(NUM_FEATURES, 0.5), 1.0
        self.factor = {kind: factor if kind in kinds else 0.0 for kind, factor in FACTORS.items()}

    def loss(self, x, y):
        predictions = x @ self.kernel + self.bias
        added = {
            "kernel": (self.kernel**2).sum(),
            "bias": self.bias**2,
            "activity": (predictions**2).mean(),  # of an activity Keras takes the sum, by the length of the batch
            "add_loss": predictions.mean(),
            "own add_loss": (predictions - y).mean(),
        }
        return ((predictions - y) ** 2).mean() + sum(self.factor[kind] * loss for kind, loss in added.items())

    def step(self, x, y):
        """Train on the batch; return its loss before."""
        loss, predictions, factor = self.loss(x, y), x @ self.kernel + self.bias, self.factor
        slopes = 2 * (predictions - y) + 2 * factor["activity"] * predictions
        slopes += factor["add_loss"] + factor["own add_loss"]
        self.kernel = self.kernel - RATE * (x.T @ slopes / len(y) + 2 * factor["kernel"] * self.kernel)
        self.bias = self.bias - RATE * (slopes.mean() + 2 * factor["bias"] * self.bias)
        return loss


class Keep(Callback):
    """Keeps the loss of each batch, and the validation loss after it."""

    def __init__(self):
        self.losses, self.validation_losses = [], []

    def on_batch_training_completed(self, batch, logs):
        self.losses.append(self.manager.trainer.adapter.to_host(self.manager.step_output.loss))
        self.validation_losses.append(logs.at("validation.dataset.loss"))


def check_training(backend, model, expected, eager_mode, batch_chunk_size=None):
    """Train the model for two epochs, with a validation after each batch, as it is expected."""
    trainer = backend.mlp.trainers.DefaultTrainer(
        keras.optimizers.SGD(RATE), model.linear, eager_mode=eager_mode, batch_chunk_size=batch_chunk_size
    )
    trainer.set_training_model(model)
    batches, validation_batches, keep = make_batches(SIZES), make_batches(VALIDATION_SIZES, seed=1), Keep()
    evaluator = MetricEvaluator(trainer=trainer, batch_chunk_size=batch_chunk_size)
    validation = TestMetricsLogger(validation_batches, "validation", metric_evaluator=evaluator)
    TrainingManager(trainer, batches, num_epochs=2, callbacks=[validation, keep]).start_training()

    losses, validation_losses = [], []
    for x, y in batches * 2:
        losses.append(expected.step(x, y))
        each = [expected.loss(*batch) for batch in validation_batches]
        validation_losses.append(np.average(each, weights=VALIDATION_SIZES))
    kernel, bias = model.linear.dense.get_weights()
    np.testing.assert_allclose(kernel[:, 0], expected.kernel, **SINGLE)
    np.testing.assert_allclose(bias, [expected.bias], **SINGLE)
    np.testing.assert_allclose(keep.losses, losses, **SINGLE)
    np.testing.assert_allclose(keep.validation_losses, validation_losses, **SINGLE)


@pytest.mark.parametrize("eager_mode", [False, True], ids=["compiled", "eager"])
@pytest.mark.parametrize("batch_chunk_size", [None, 3])
@pytest.mark.parametrize("kind", FACTORS)
def test_what_the_training_model_adds_is_trained_on(backend, kind, batch_chunk_size, eager_mode):
    model = TrainModel([kind], lambda model: model.losses)
    check_training(backend, model, ByHand([kind]), eager_mode, batch_chunk_size)


@pytest.mark.parametrize("eager_mode", [False, True], ids=["compiled", "eager"])
@pytest.mark.parametrize("batch_chunk_size", [None, 3])
def test_of_one_layer_those_within_it(backend, batch_chunk_size, eager_mode):
    within = [kind for kind in FACTORS if kind != "own add_loss"]
    model = TrainModel(FACTORS, lambda model: model.linear.losses)
    check_training(backend, model, ByHand(within), eager_mode, batch_chunk_size)


@pytest.mark.parametrize("eager_mode", [False, True], ids=["compiled", "eager"])
def test_losses_of_a_call_before_training_are_not_added(backend, eager_mode):
    model = TrainModel(FACTORS, lambda model: model.losses)
    model.linear(make_batches((4,), seed=2)[0][0].astype("float32"))
    assert model.linear.losses
    check_training(backend, model, ByHand(FACTORS), eager_mode)


@pytest.mark.parametrize("eager_mode", [False, True], ids=["compiled", "eager"])
@pytest.mark.parametrize("batch_chunk_size", [None, 3])
def test_nothing_is_added_that_the_training_model_does_not_add(backend, batch_chunk_size, eager_mode):
    check_training(backend, TrainModel(FACTORS, lambda model: []), ByHand([]), eager_mode, batch_chunk_size)
