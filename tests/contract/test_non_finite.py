"""A batch whose loss or gradient isn't finite changes nothing, ends training, or goes unnoticed, as asked for."""

import numpy as np
import pytest
from contract.backends.base import make_batches

from mlpug.callbacks import Callback, TrainingMetricsLogger
from mlpug.errors import ConfigurationError, NonFiniteLoss
from mlpug.evaluation import MetricEvaluator
from mlpug.trainers import TrainingManager

PROBLEMS = ["loss is nan", "loss is inf", "gradient isn't finite"]


class Spoil(Callback):
    """Makes the loss of the batches at these places 0, where the gradient of its square root isn't finite."""

    def __init__(self, places):
        self.places = places

    def on_batch_training_start(self, batch, logs):
        logs["training_settings"] = {"scale": 0.0 if logs["current"]["global_iter"] in self.places else 1.0}


class Record(Callback):
    """What happened in each batch, and how training ended."""

    def __init__(self):
        self.did_update, self.skipped, self.ended = [], [], []

    def on_batch_training_completed(self, batch, logs):
        self.did_update.append(logs.at("training.batch.did_update_model"))
        self.skipped.append(logs.at("training_params.skipped_batches"))

    def on_training_ended(self, logs, stopped_early, stopped_on_error, interrupted, callback_calls_success):
        self.ended.append((stopped_early, stopped_on_error, interrupted, callback_calls_success))


def spoiled(batch, problem):
    x, y = (array.copy() for array in batch)
    # Not in x: XLA's maximum, and so a relu, may give 0 for what is no number.
    if problem == "loss is nan":
        y[0] = np.nan
    elif problem == "loss is inf":
        y[0] = np.inf
    return x, y


def train(backend, on_non_finite, batches, problem, bad=(), num_epochs=1, callbacks=()):
    """With the batches at the bad places spoiled; the loss is the root of the mean squared error."""
    backend.without_dropout()
    trainer = backend.trainer(on_non_finite=on_non_finite)
    trainer.set_training_model(
        backend.training_model(returns=lambda loss, *rest: (backend.square_root(loss), *rest)),
    )
    given = [spoiled(batch, problem) if place in bad else batch for place, batch in enumerate(batches)]
    zeroed = {place + epoch * len(batches) for epoch in range(num_epochs) for place in bad}
    callbacks = [Spoil(zeroed if problem == "gradient isn't finite" else ()), *callbacks]
    manager = TrainingManager(trainer, given, num_epochs=num_epochs, callbacks=callbacks)
    with np.errstate(invalid="ignore", over="ignore"):
        manager.start_training()
    return manager


def assert_equal_weights(backend, other):
    weights, expected = backend.weights(), other.weights()
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        np.testing.assert_array_equal(weight, expected[name])


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_skipped_batch_is_as_if_it_had_never_been(backend, problem):
    batches, record = make_batches((8, 8, 8, 8, 8)), Record()
    train(backend, "skip", batches, problem, bad=(0, 3), num_epochs=2, callbacks=[record])
    without = type(backend)()
    train(without, "skip", [batches[1], batches[2], batches[4]], problem, num_epochs=2)

    assert_equal_weights(backend, without)
    assert record.did_update == [False, True, True, False, True] * 2
    assert record.skipped == [1, 1, 1, 2, 2, 3, 3, 3, 4, 4]
    assert record.ended == [(False, False, False, True)]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_raising_leaves_the_weights_of_the_batch_before(backend, problem):
    batches, record = make_batches((8, 8, 8)), Record()
    with pytest.raises(NonFiniteLoss) as raised:
        train(backend, "raise", [*batches, batches[0]], problem, bad=(2,), callbacks=[record])
    before = type(backend)()
    train(before, "raise", batches[:2], problem)

    assert_equal_weights(backend, before)
    error = raised.value
    assert (error.epoch, error.batch_step, error.global_iter) == (0, 2, 2)
    expected = {"loss is nan": np.nan, "loss is inf": np.inf, "gradient isn't finite": 0.0}[problem]
    np.testing.assert_equal(error.loss, expected)
    assert "in epoch 0, at batch 2 (global_iter 2)" in str(error)
    assert record.did_update == [True, True]
    assert record.ended == [(False, True, False, True)]


def test_the_error_names_the_place_in_a_later_epoch(backend):
    batches, seen = make_batches((8, 8)), []

    class Once(Callback):
        """Lets the loss be infinite in the second epoch only."""

        def on_batch_training_start(self, batch, logs):
            current = logs["current"]
            seen.append((current["epoch"], current["batch_step"], current["global_iter"]))
            logs["training_settings"] = {"scale": np.inf if len(seen) == 4 else 1.0}

    trainer = backend.trainer(on_non_finite="raise")
    trainer.set_training_model(backend.training_model())
    with pytest.raises(NonFiniteLoss) as raised:
        TrainingManager(trainer, batches, num_epochs=3, callbacks=[Once()]).start_training()
    error = raised.value
    assert (error.epoch, error.batch_step, error.global_iter) == seen[-1] == (1, 1, 3)


def test_ignoring_lets_the_weights_be_ruined(backend):
    record = Record()
    train(backend, "ignore", make_batches((8, 8)), "loss is nan", bad=(0,), callbacks=[record])

    assert record.did_update == [True, True]
    assert record.skipped == [None, None]
    *_, last_bias = backend.weights().values()
    assert np.isnan(last_bias).all()


@pytest.mark.parametrize("on_non_finite", ["raise", "skip"])
def test_large_gradients_are_finite_though_their_sum_overflows(backend, on_non_finite):
    ((x, y),), record = make_batches((8,)), Record()
    backend.without_dropout()
    trainer = backend.trainer(on_non_finite=on_non_finite)
    trainer.set_training_model(backend.training_model())
    # The square of an error is within the range of double or single precision, a sum of squares of gradients isn't.
    largest = 1e154 if backend.is_bit_equal else 1e19
    x[:] = 30.0
    y[:] = 0.3 * largest
    with np.errstate(over="ignore"):
        TrainingManager(trainer, [(x, y)], callbacks=[record]).start_training()

    assert record.did_update == [True]
    assert record.skipped == [None]


def test_a_skipped_batchs_loss_is_in_the_logs(backend):
    losses = []

    class Losses(Callback):
        def on_batch_training_completed(self, batch, logs):
            losses.append(logs.at("training.batch.loss"))

    backend.without_dropout()
    trainer = backend.trainer(on_non_finite="skip")
    trainer.set_training_model(backend.training_model())
    batches = make_batches((8, 8))
    batches[0][1][2] = np.nan
    callbacks = [TrainingMetricsLogger(MetricEvaluator(trainer=trainer)), Losses()]
    TrainingManager(trainer, batches, callbacks=callbacks).start_training()

    assert np.isnan(losses[0])
    assert np.isfinite(losses[1])


@pytest.mark.parametrize("given", ["Skip", None, True])
def test_anything_else_is_refused_when_the_trainer_is_made(backend, given):
    with pytest.raises(ConfigurationError, match=r'must be one of "raise", "skip", "ignore", not '):
        backend.trainer(on_non_finite=given)
