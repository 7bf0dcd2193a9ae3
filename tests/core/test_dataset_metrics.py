"""Metrics of datasets that are not trained on."""

import math

import numpy as np
import pytest

from mlpug.callbacks import DatasetMetricsLogger, TestMetricsLogger
from mlpug.errors import ConfigurationError, DatasetError
from mlpug.evaluation import MetricEvaluator

TRAINING = [np.zeros(1)] * 5
VALIDATION = [np.array(values) for values in ([1.0, 3.0], [5.0], [2.0, 2.0, 8.0])]
LOSSES = [2.0, 5.0, 4.0]


class Stream:
    """Gives a fresh iterator each time, and doesn't know its length."""

    def __init__(self, *batches):
        self.batches = batches
        self.iterated = 0

    def __iter__(self):
        self.iterated += 1
        return iter(self.batches)


@pytest.fixture
def watch(callback_with):
    """A callback that reads a metric path after each batch and each epoch; what it read is in the lists given."""

    def make(path, after_batch, after_epoch=None):
        return callback_with(
            on_batch_training_completed=lambda batch, logs: after_batch.append(logs.at(path)),
            on_epoch_completed=lambda logs: after_epoch is None or after_epoch.append(logs.at(path)),
        )

    return make


def mean_over(batches):
    samples = [sample for batch in batches for sample in batch.tolist()]
    return math.fsum(samples) / len(samples)


def test_a_dataset_is_evaluated_at_each_batch_by_default(train, evaluator, watch):
    dataset, losses = Stream(*VALIDATION), []
    train(TRAINING, [TestMetricsLogger(dataset, "validation", evaluator), watch("validation.dataset.loss", losses)])

    assert losses == [mean_over(VALIDATION)] * 5
    assert dataset.iterated == 5


def test_without_batch_level_it_is_evaluated_at_the_end_of_each_epoch(train, evaluator, watch):
    dataset, during, after = Stream(*VALIDATION), [], []
    logger = TestMetricsLogger(dataset, "validation", evaluator, batch_level=False)
    train(TRAINING, [logger, watch("validation.dataset.loss", during, after)], num_epochs=2)

    assert after == [mean_over(VALIDATION)] * 2
    assert during == [None] * 5 + [mean_over(VALIDATION)] * 5
    assert dataset.iterated == 2


def test_each_evaluation_uses_the_weights_of_that_moment(make_trainer, make_manager, regression_batches, callback_with):
    trainer, losses, expected = make_trainer(), [], []
    validation = regression_batches(3, 5)
    x, y = (np.concatenate(arrays) for arrays in zip(*validation, strict=True))

    def compare(batch, logs):
        weights = trainer.training_model.parameters
        losses.append(logs.at("validation.dataset.loss"))
        expected.append(np.mean((x @ weights["weight"] + weights["bias"] - y) ** 2))

    logger = TestMetricsLogger(validation, "validation", MetricEvaluator(trainer=trainer))
    reader = callback_with(on_batch_training_completed=compare)
    make_manager(regression_batches(4, 4, 4), [logger, reader], trainer=trainer).start_training()

    assert len(set(losses)) == 3
    # the same 8 squares in another order: each of some 20 roundings moves the sum by at most 2**-53 of it
    assert losses == pytest.approx(expected, rel=20 * 2**-53)


def test_batch_mode_evaluates_one_batch_each_time_and_starts_again_after_the_last(train, evaluator, watch):
    dataset, losses = Stream(*VALIDATION), []
    logger = TestMetricsLogger(dataset, "test", evaluator, logging_mode="batch")
    train(TRAINING, [logger, watch("test.batch.loss", losses)], num_epochs=2)

    assert losses == (LOSSES * 4)[:10]
    assert dataset.iterated == 4


def test_window_mode_also_gives_the_mean_over_the_latest_batches(train, evaluator, watch):
    losses, means = [], []
    logger = TestMetricsLogger(
        VALIDATION, "test", evaluator, logging_mode="batch_and_sliding_window", sliding_window_length=2
    )
    train(TRAINING, [logger, watch("test.batch.loss", losses), watch("test.sliding_window.loss", means)])
    evaluated = (VALIDATION * 2)[:5]

    assert losses == (LOSSES * 2)[:5]
    assert means == [mean_over(evaluated[max(0, last - 1) : last + 1]) for last in range(5)]


def test_a_window_is_half_a_training_epoch_by_default(train, evaluator, watch):
    means = []
    logger = TestMetricsLogger(VALIDATION, "test", evaluator, logging_mode="batch_and_sliding_window")
    train(TRAINING, [logger, watch("test.sliding_window.loss", means)])

    assert means[-1] == mean_over([VALIDATION[0], VALIDATION[1]])  # the fourth and the fifth that were evaluated


def test_a_batch_that_is_cut_in_chunks_has_the_same_metrics(train, watch):
    losses, means = [], []
    evaluator = MetricEvaluator(
        model_evaluate_func=lambda batch, **_: (float(np.sum(batch)) / len(batch), len(batch)), batch_chunk_size=1
    )
    logger = TestMetricsLogger(
        VALIDATION, "test", evaluator, logging_mode="batch_and_sliding_window", sliding_window_length=3
    )
    train(TRAINING[:3], [logger, watch("test.batch.loss", losses), watch("test.sliding_window.loss", means)])

    assert losses == LOSSES
    assert means[-1] == mean_over(VALIDATION)


@pytest.mark.parametrize("batch_level", [True, False])
def test_the_condition_is_asked_before_anything_is_evaluated(train, evaluator, batch_level):
    dataset, asked = Stream(*VALIDATION), []

    def second(logs, batch):
        asked.append(batch)
        return len(asked) == 2

    logger = TestMetricsLogger(dataset, "test", evaluator, batch_level=batch_level, log_condition_func=second)
    manager = train(TRAINING, [logger], num_epochs=3)

    assert len(asked) == (15 if batch_level else 3)
    assert all(batch is TRAINING[0] if batch_level else batch is None for batch in asked)
    assert dataset.iterated == 1
    assert manager.logs.at("test.dataset.loss") == mean_over(VALIDATION)


@pytest.mark.parametrize("mode", ["batch", "batch_and_sliding_window", "dataset"])
def test_the_settings_reach_the_model_in_inference_mode(train, make_trainer, mean_model, mode):
    trainer = make_trainer(mean_model)
    settings = {"beam": 3}
    logger = TestMetricsLogger(
        VALIDATION[:1], "test", MetricEvaluator(trainer=trainer), logging_mode=mode, evaluate_settings=settings
    )
    train(TRAINING[:2], [logger], trainer=trainer)

    assert mean_model.calls == [(None, False), (settings, True)] * 2


def test_what_was_not_read_of_one_evaluation_can_be_read_until_the_next(train, evaluator):
    logger = TestMetricsLogger(VALIDATION, "test", evaluator, logging_mode="batch")
    manager = train(TRAINING, [logger])

    assert manager.logs.at("test.batch.loss") == LOSSES[1]


def test_two_sets_stand_side_by_side(train, evaluator):
    loggers = [TestMetricsLogger([batch], name, evaluator) for batch, name in zip(VALIDATION, "abc", strict=True)]
    manager = train(TRAINING, loggers)

    assert [manager.logs.at(f"{name}.dataset.loss") for name in "abc"] == LOSSES


@pytest.mark.parametrize(
    ("dataset", "error", "message"),
    [
        ([], DatasetError, "The dataset 'test' is empty: it has no batches"),
        (3, ConfigurationError, "The dataset 'test' must be an iterable of batches, not a int"),
        (iter([1]), ConfigurationError, "The dataset 'test' is a list_iterator, which can be read only once"),
    ],
)
def test_a_dataset_that_cannot_work_is_refused_when_the_callback_is_made(evaluator, dataset, error, message):
    with pytest.raises(error, match=message):
        TestMetricsLogger(dataset, "test", evaluator)


@pytest.mark.parametrize("mode", ["batch", "batch_and_sliding_window", "dataset"])
def test_a_dataset_that_turns_out_to_be_empty_is_an_error(train, evaluator, mode):
    with pytest.raises(DatasetError, match="no batches to evaluate in test"):
        train(TRAINING, [TestMetricsLogger(Stream(), "test", evaluator, logging_mode=mode)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric_evaluator": None}, "metric_evaluator must be an mlp.evaluation.MetricEvaluator, not None"),
        ({"logging_mode": "never"}, "logging_mode must be one of"),
        ({"sliding_window_length": -1}, "sliding_window_length must be a whole number of at least 1, not -1"),
    ],
)
def test_other_mistakes_are_refused_too(evaluator, options, message):
    with pytest.raises(ConfigurationError, match=message):
        TestMetricsLogger(VALIDATION, "test", **{"metric_evaluator": evaluator, **options})


def test_both_names_are_the_same_class():
    assert DatasetMetricsLogger is TestMetricsLogger


def test_its_name_holds_the_sets_name(evaluator):
    names = {TestMetricsLogger(VALIDATION, name, evaluator).name for name in ("test", "validation")}

    assert len(names) == 2
