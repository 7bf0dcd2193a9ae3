"""Two optimizers, with a loss each or one for both: as two trainings side by side would be."""

import math

import numpy as np
import pytest
from contract.backends.base import NUM_FEATURES, losses_by_name, make_batches
from contract.keeper import Keeper

from mlpug.callbacks import Callback, LRSchedulerWrapper, TestMetricsLogger, TrainingMetricsLogger
from mlpug.errors import ConfigurationError, TrainingModelError
from mlpug.evaluation import MetricEvaluator
from mlpug.trainers import TrainingManager

SIZES = (3, 2, 4)
PARTS = {"batch_chunk_size": 2, "gradient_accumulation_steps": 2}
RATES = {"first": 0.05, "second": 0.1}


def summed(first, second):
    return first + second


def by_formula(num_epochs=1, factor=lambda step: 1.0, clip_norm=math.inf, num_steps=1):
    """For each optimizer: its weights, the loss of each batch, and the norm of each gradient."""
    batches = make_batches(SIZES)
    results = {}
    for name, scale in (("first", 1.0), ("second", -2.0)):
        weights, losses, norms = np.zeros(NUM_FEATURES + 1), [], []
        for _ in range(num_epochs):
            for start in range(0, len(batches), num_steps):
                x, y = (np.concatenate(part) for part in zip(*batches[start : start + num_steps], strict=True))
                features = np.column_stack([x, np.ones(len(x))])
                errors = features @ weights - scale * y
                gradient = 2 * features.T @ errors / len(y)
                norms.append(float(np.linalg.norm(gradient)))
                losses.append(float(np.mean(errors**2)))
                rate = RATES[name] * factor(len(losses) - 1)
                weights = weights - rate * min(1.0, clip_norm / norms[-1]) * gradient
        results[name] = weights, losses, norms
    return results


class Record(Callback):
    def __init__(self):
        self.losses, self.norms, self.rates, self.windows = [], [], [], []

    def on_batch_training_completed(self, batch, logs):
        self.losses.append(logs.at("training.batch.loss"))
        self.norms.append(logs.at("training.batch.gradient_norm"))
        self.rates.append(logs.at("training_params.batch.lr"))
        self.windows.append(logs.at("training.sliding_window.loss"))


def train(backend, returns=losses_by_name, num_epochs=1, callbacks=(), resume_from=None, **arguments):
    trainer, model, weights = backend.two_regressions(returns, **arguments)
    record, evaluator = Record(), MetricEvaluator(trainer=trainer)
    callbacks = [
        TrainingMetricsLogger(evaluator, sliding_window_length=2),
        TestMetricsLogger(make_batches(SIZES), "validation", metric_evaluator=evaluator, batch_level=False),
        *callbacks,
        record,
    ]
    manager = TrainingManager(trainer, make_batches(SIZES), num_epochs=num_epochs, callbacks=callbacks)
    trainer.set_training_model(model)
    manager.start_training(resume_from)
    return record, weights(), manager


def assert_close(backend, found, expected):
    expected = np.asarray(expected)
    np.testing.assert_allclose(found, expected, rtol=backend.rounding, atol=backend.rounding * np.abs(expected).max())


@pytest.mark.parametrize("parts", [{}, PARTS], ids=["whole", "parts"])
def test_each_moves_its_own_weights_by_its_own_loss_and_rate(backend, parts):
    record, weights, _ = train(backend, **parts)
    expected = by_formula(num_steps=parts.get("gradient_accumulation_steps", 1))
    for number, (name, (expected_weights, losses, _)) in enumerate(expected.items()):
        assert_close(backend, weights[number], expected_weights)
        assert_close(backend, [loss[name] for loss in record.losses], losses)
    assert all(list(loss) == ["first", "second"] for loss in record.losses)


@pytest.mark.parametrize("parts", [{}, PARTS], ids=["whole", "parts"])
def test_one_loss_may_be_that_of_both(backend, parts):
    record, weights, _ = train(backend, summed, **parts)
    expected = by_formula(num_steps=parts.get("gradient_accumulation_steps", 1))
    for number, (expected_weights, *_) in enumerate(expected.values()):
        assert_close(backend, weights[number], expected_weights)
    assert_close(backend, record.losses, np.sum([losses for _, losses, _ in expected.values()], axis=0))


def test_means_over_batches_and_datasets_are_of_each_loss(backend):
    record, _, manager = train(backend)
    x, y = (np.concatenate(part) for part in zip(*make_batches(SIZES), strict=True))
    features, latest = np.column_stack([x, np.ones(len(x))]), np.array(SIZES[-2:])
    for name, (weights, losses, _) in by_formula().items():
        assert_close(backend, record.windows[-1][name], latest @ losses[-2:] / latest.sum())
        errors = features @ weights - {"first": 1.0, "second": -2.0}[name] * y
        assert_close(backend, manager.logs.at(f"validation.dataset.loss.{name}"), np.mean(errors**2))


@pytest.mark.parametrize("parts", [{}, PARTS], ids=["whole", "parts"])
def test_each_gradient_is_clipped_by_its_own_norm(backend, parts):
    record, weights, _ = train(backend, gradient_clip_norm=1.0, **parts)
    expected = by_formula(clip_norm=1.0, num_steps=parts.get("gradient_accumulation_steps", 1))
    for number, (name, (expected_weights, _, norms)) in enumerate(expected.items()):
        assert_close(backend, weights[number], expected_weights)
        assert_close(backend, [norm[name] for norm in record.norms], norms)


def test_schedules_may_be_those_of_both_or_of_one(backend):
    def factor(step):
        return 1 / (1 + step)

    record, weights, _ = train(backend, callbacks=[LRSchedulerWrapper({"second": factor})])
    plain, scheduled = by_formula()["first"][0], by_formula(factor=factor)["second"][0]
    assert_close(backend, weights[0], plain)
    assert_close(backend, weights[1], scheduled)
    assert [rates["first"] for rates in record.rates] == pytest.approx([0.05] * 3)
    assert [rates["second"] for rates in record.rates] == pytest.approx([0.1, 0.1 / 2, 0.1 / 3])


def test_a_resumed_run_equals_one_never_stopped(backend, tmp_path):
    keep = Keeper(tmp_path)
    whole, weights, _ = train(backend, num_epochs=2, callbacks=[keep], **PARTS)
    assert {done for _, done in keep.saved} == {1, 2, 3, 4}
    for path, done in keep.saved:
        record, resumed_weights, _ = train(backend, num_epochs=2, resume_from=path, **PARTS)
        assert record.losses == whole.losses[done:]
        np.testing.assert_array_equal(resumed_weights, weights)


def test_a_loss_that_isnt_finite_leaves_both_where_they_were(backend):
    # numpy's, torch's and Keras's numbers alike
    record, weights, _ = train(
        backend, lambda first, second: {"first": first, "second": second * math.inf}, on_non_finite="skip"
    )
    np.testing.assert_array_equal(weights, np.zeros((2, NUM_FEATURES + 1)))
    assert len(record.losses) == 3


def test_losses_by_other_names_are_an_error(backend):
    with pytest.raises(TrainingModelError, match="losses for first, third, and the optimizers are first, second"):
        train(backend, lambda first, second: {"first": first, "third": second})


def test_a_loss_of_several_numbers_is_an_error(backend):
    with pytest.raises(TrainingModelError, match="loss"):
        train(backend, lambda first, second: {"first": "none", "second": second})


def test_a_schedule_for_an_optimizer_that_isnt_there_is_refused(backend):
    with pytest.raises(ConfigurationError, match="third"):
        train(backend, callbacks=[LRSchedulerWrapper({"third": lambda step: 1.0})])
