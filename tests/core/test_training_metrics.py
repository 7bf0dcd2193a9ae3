"""Metrics of the batches that are trained on."""

import math
import weakref

import numpy as np
import pytest

from mlpug.callbacks import LoggingMode, TrainingMetricsLogger
from mlpug.errors import ConfigurationError
from mlpug.evaluation import Metric, MetricEvaluator

DATASET = [np.array(values) for values in ([1.0, 3.0], [5.0], [2.0, 2.0, 8.0], [4.0], [0.0, 1.0])]
LOSSES = [2.0, 5.0, 4.0, 4.0, 0.5]


@pytest.fixture
def watch(callback_with):
    """A callback that reads a metric path after each batch; what it read is in the list given."""

    def make(path, seen):
        return callback_with(on_batch_training_completed=lambda batch, logs: seen.append(logs.at(path)))

    return make


def mean_over(batches):
    samples = [sample for batch in batches for sample in batch.tolist()]
    return math.fsum(samples) / len(samples)


def test_batch_mode_writes_the_loss_of_each_batch(train, evaluator, watch):
    losses, windows = [], []
    logger = TrainingMetricsLogger(metric_evaluator=evaluator, logging_mode="batch")
    train(DATASET, [logger, watch("training.batch.loss", losses), watch("training.sliding_window", windows)])

    assert losses == LOSSES
    assert windows == [None] * 5


@pytest.mark.parametrize("length", [1, 2, 4, 10])
def test_window_mode_also_writes_the_mean_over_the_samples_of_the_latest_batches(train, evaluator, watch, length):
    losses, means = [], []
    logger = TrainingMetricsLogger(metric_evaluator=evaluator, sliding_window_length=length)
    train(DATASET, [logger, watch("training.batch.loss", losses), watch("training.sliding_window.loss", means)])

    assert losses == LOSSES
    assert means == [mean_over(DATASET[max(0, last + 1 - length) : last + 1]) for last in range(5)]


@pytest.mark.parametrize(("num_batches", "length"), [(1, 1), (2, 1), (5, 2), (8, 4)])
def test_a_window_is_half_an_epoch_by_default(train, evaluator, watch, num_batches, length):
    means = []
    dataset = [np.array([float(2**number)]) for number in range(num_batches)]
    train(dataset, [TrainingMetricsLogger(evaluator), watch("training.sliding_window.loss", means)])

    assert means[-1] == mean_over(dataset[-length:])


def test_a_window_is_a_hundred_batches_where_nobody_knows_how_long_an_epoch_is(train, evaluator, watch):
    means = []
    batches = [np.array([float(number)]) for number in range(105)]
    train(iter(batches), [TrainingMetricsLogger(evaluator), watch("training.sliding_window.loss", means)])

    assert means[99] == mean_over(batches[:100])
    assert means[-1] == mean_over(batches[5:])


def test_a_window_goes_on_over_epochs(train, evaluator, watch):
    means = []
    logger = TrainingMetricsLogger(evaluator, sliding_window_length=3)
    train(DATASET, [logger, watch("training.sliding_window.loss", means)], num_epochs=2)

    assert means[5] == mean_over([DATASET[3], DATASET[4], DATASET[0]])


def test_dataset_mode_evaluates_the_training_data_in_inference_mode(train, evaluator, make_trainer, mean_model, watch):
    trainer, losses = make_trainer(mean_model), []
    logger = TrainingMetricsLogger(
        MetricEvaluator(trainer=trainer), logging_mode=LoggingMode.DATASET, evaluate_settings="greedy"
    )
    train(DATASET[:3], [logger, watch("training.dataset.loss", losses)], trainer=trainer)

    assert losses == [mean_over(DATASET[:3])] * 3
    assert mean_model.calls == [(None, False), *[("greedy", True)] * 3] * 3


def test_dataset_mode_needs_a_training_dataset_that_can_be_read_again(train, evaluator):
    seen = []
    stream = (seen.append(number) or np.array([float(number)]) for number in range(4))
    with pytest.raises(ConfigurationError, match="read only once"):
        train(stream, [TrainingMetricsLogger(evaluator, logging_mode="dataset")])

    assert seen == []  # nothing was trained on before


@pytest.mark.parametrize(
    ("mode", "path", "expected"),
    [
        ("batch", "training.batch.loss", [0.5, 0.5]),
        ("batch_and_sliding_window", "training.batch.loss", [0.5, 0.5]),
        ("dataset", "training.dataset.loss", [mean_over(DATASET)] * 2),
    ],
)
def test_without_batch_level_metrics_are_written_at_the_end_of_each_epoch(
    train, evaluator, callback_with, mode, path, expected
):
    during, after = [], []
    reader = callback_with(
        on_batch_training_completed=lambda batch, logs: during.append(logs.at(path)),
        on_epoch_completed=lambda logs: after.append(logs.at(path)),
    )
    logger = TrainingMetricsLogger(evaluator, batch_level=False, logging_mode=mode)
    train(DATASET, [logger, reader], num_epochs=2)

    assert after == expected
    assert during[:5] == [None] * 5


def test_without_batch_level_an_epoch_that_was_cut_short_writes_nothing(train, evaluator, callback_with):
    logger = TrainingMetricsLogger(evaluator, batch_level=False)
    stopper = callback_with(on_batch_training_start=lambda batch, logs: logger.manager.stop_training())
    manager = train(DATASET, [logger, stopper])

    assert manager.logs.at("training.batch.loss") is None


def test_the_condition_is_asked_with_the_batch_and_decides(train, evaluator, watch):
    asked, losses, means = [], [], []

    def every_other(logs, batch):
        asked.append(batch)
        return logs["current"]["batch_step"] % 2 == 0

    logger = TrainingMetricsLogger(evaluator, sliding_window_length=2, log_condition_func=every_other)
    train(DATASET, [logger, watch("training.batch.loss", losses), watch("training.sliding_window.loss", means)])

    assert [batch is given for batch, given in zip(asked, DATASET, strict=True)] == [True] * 5
    assert losses == [2.0, None, 4.0, None, 0.5]
    # what isn't logged isn't in the window either: batches 0; 0 and 2; 2 and 4
    assert means[::2] == [mean_over(DATASET[:1]), mean_over(DATASET[0:3:2]), mean_over(DATASET[2:5:2])]


def test_at_the_end_of_an_epoch_the_condition_is_asked_without_a_batch(train, evaluator):
    asked = []
    logger = TrainingMetricsLogger(
        evaluator, batch_level=False, log_condition_func=lambda logs, batch: bool(asked.append(batch))
    )
    manager = train(DATASET, [logger], num_epochs=2)

    assert asked == [None, None]
    assert manager.logs.at("training.batch.loss") is None


def test_metrics_come_from_the_training_steps_own_output(train, make_trainer, mean_model, watch):
    trainer, sums = make_trainer(mean_model), []
    metrics = {
        "sum": Metric(inputs=lambda batch, out: out.auxiliary_results, compute=lambda samples: float(samples.sum()))
    }
    logger = TrainingMetricsLogger(MetricEvaluator(trainer=trainer, metrics=metrics), sliding_window_length=2)
    train(DATASET, [logger, watch("training.sliding_window.sum", sums)], trainer=trainer)

    assert sums == [4.0, 9.0, 17.0, 16.0, 5.0]
    assert mean_model.calls == [(None, False)] * 5  # trained on each batch, evaluated none


@pytest.mark.parametrize("mode", ["batch", "batch_and_sliding_window"])
def test_nothing_leaves_the_device_and_nothing_is_computed_unless_it_is_read(
    train, make_trainer, returning, device_scalar, mode
):
    scalars, computed = [], []

    def loss(batch):
        scalars.append(device_scalar(batch[0]))
        return scalars[-1], 1

    trainer = make_trainer(returning(loss))
    metrics = {"n": Metric(inputs=lambda batch, output: batch, compute=lambda batch: computed.append(1))}
    logger = TrainingMetricsLogger(MetricEvaluator(trainer=trainer, metrics=metrics), logging_mode=mode)
    train([np.ones(1)] * 20, [logger], trainer=trainer, num_epochs=2)

    assert [scalar.reads for scalar in scalars] == [0] * 40
    assert computed == []


def test_in_batch_mode_inputs_are_not_even_picked_unless_they_are_read(train, evaluator, watch):
    picked = []

    def pick(batch, output):
        picked.append(batch)
        return batch

    metrics = {"n": Metric(inputs=pick, compute=len)}
    with_metric = MetricEvaluator(model_evaluate_func=lambda batch, **_: 0.0, metrics=metrics)
    logger = TrainingMetricsLogger(with_metric, logging_mode="batch")
    train(DATASET, [logger])
    assert picked == []

    train(DATASET, [logger, watch("training.batch.n", read := [])])
    assert (len(picked), read) == (5, [2, 1, 3, 1, 2])


@pytest.mark.parametrize("mode", ["batch", "batch_and_sliding_window"])
@pytest.mark.parametrize("batch_level", [True, False])
def test_the_output_of_a_batch_is_let_go_before_the_step_of_the_next(train, evaluator, returning, mode, batch_level):
    references, alive = [], []

    class Activations:
        pass

    def step(batch):
        alive.append(sum(reference() is not None for reference in references))
        activations = Activations()
        references.append(weakref.ref(activations))
        return 0.5, 1, activations

    logger = TrainingMetricsLogger(evaluator, logging_mode=mode, batch_level=batch_level)
    train(DATASET, [logger], training_model=returning(step))

    assert alive == [0] * 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric_evaluator": len}, "metric_evaluator must be an mlp.evaluation.MetricEvaluator, not"),
        ({"logging_mode": "sometimes"}, r"logging_mode must be one of \['batch', .*'dataset'\], not 'sometimes'"),
        ({"sliding_window_length": 0}, "sliding_window_length must be a whole number of at least 1, not 0"),
        ({"sliding_window_length": 2.5}, "sliding_window_length must be a whole number of at least 1, not 2.5"),
    ],
)
def test_what_cannot_work_is_refused_when_the_callback_is_made(evaluator, options, message):
    with pytest.raises(ConfigurationError, match=message):
        TrainingMetricsLogger(**{"metric_evaluator": evaluator, **options})


@pytest.mark.parametrize(
    ("mode", "levels"),
    [("batch", ["batch"]), ("batch_and_sliding_window", ["batch", "sliding_window"]), ("dataset", ["dataset"])],
)
def test_the_paths_that_are_told_are_the_paths_that_are_written(train, mode, levels):
    metrics = {"n": Metric(inputs=lambda batch, output: batch, compute=len)}
    evaluator = MetricEvaluator(model_evaluate_func=lambda batch, **_: 0.5, metrics=metrics)
    logger = TrainingMetricsLogger(evaluator, logging_mode=mode)
    manager = train(DATASET, [logger])

    assert list(logger.metric_paths()) == [f"training.{level}.{name}" for level in levels for name in ("loss", "n")]
    assert all(manager.logs.at(path) is not None for path in logger.metric_paths())
