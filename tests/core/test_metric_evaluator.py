"""Metrics of batches and datasets."""

import tracemalloc
from fractions import Fraction

import numpy as np
import pytest

from mlpug.callbacks import TestMetricsLogger, TrainingMetricsLogger
from mlpug.errors import ConfigurationError, DatasetError, TrainingModelError
from mlpug.evaluation import Metric, MetricEvaluator, WeightedMean
from mlpug.testing import GradientDescent, LinearRegression, fake_trainer


def mean_of(batch, evaluate_settings, inference_mode):
    return float(np.mean(batch)), len(batch), batch


def mean_of_means(batches, function=lambda batch: batch):
    """What the models' own means of these batches give together: the true mean, rounded once."""
    total = sum(Fraction(float(np.mean(function(batch)))) * len(batch) for batch in batches)
    return float(total / sum(map(len, batches)))


def f1_score(inputs):
    """F1 of predicting whether a number is above 0 by whether it is above 0.2."""
    values = inputs[0] if isinstance(inputs, tuple) else inputs
    predicted, actual = values > 0.2, values > 0
    return float(2 * np.sum(predicted & actual) / (np.sum(predicted) + np.sum(actual)))


class Largest:
    """The largest number so far, as a streaming metric."""

    def __init__(self):
        self.reset()

    def update(self, values):
        self.largest = max(self.largest, float(np.max(values)))

    def compute(self):
        return self.largest

    def reset(self):
        self.largest = -np.inf


@pytest.fixture
def metrics():
    """A mean, a function that is no mean, and a streaming metric."""
    return {
        "mean_abs": Metric(
            inputs=lambda batch, output: (np.mean(np.abs(batch)), output.num_samples), compute=WeightedMean()
        ),
        "f1": Metric(inputs=lambda batch, output: (batch,), compute=f1_score),
        "largest": Metric(inputs=lambda batch, output: output.auxiliary_results, compute=Largest()),
    }


def test_a_trainer_or_a_function_evaluates_and_not_both(make_trainer):
    with pytest.raises(ConfigurationError, match=r"by trainer=.* or by model_evaluate_func=.*got both"):
        MetricEvaluator(trainer=make_trainer(), model_evaluate_func=mean_of)


def test_without_either_it_is_for_batches_that_are_trained_on():
    evaluator = MetricEvaluator()
    TrainingMetricsLogger(metric_evaluator=evaluator)
    for needs_one in (
        lambda: evaluator.evaluate_batch([1.0]),
        lambda: TestMetricsLogger([[1.0]], "validation", metric_evaluator=evaluator),
        lambda: TrainingMetricsLogger(metric_evaluator=evaluator, logging_mode="dataset"),
    ):
        with pytest.raises(ConfigurationError, match=r"needs trainer=.* or model_evaluate_func=.*got neither"):
            needs_one()


def test_a_metric_must_be_a_metric():
    with pytest.raises(ConfigurationError, match=r"metrics\['f1'\] must be an mlp.evaluation.Metric\(inputs=.*, not"):
        MetricEvaluator(model_evaluate_func=mean_of, metrics={"f1": f1_score})


@pytest.mark.parametrize("size", [0, -1, 1.5, True])
def test_a_chunk_size_is_a_count(size):
    with pytest.raises(ConfigurationError, match="batch_chunk_size must be a whole number of at least 1, not"):
        MetricEvaluator(model_evaluate_func=mean_of, batch_chunk_size=size)


def test_the_loss_of_a_dataset_is_the_mean_over_its_samples():
    # By hand: (1 + 2 + 3 + 4 + 10) / 5; the mean of the batches' means would be 6.25.
    dataset = [np.array([1.0, 2.0, 3.0, 4.0]), np.array([10.0])]

    assert MetricEvaluator(model_evaluate_func=mean_of).evaluate_dataset(dataset) == {"loss": 4.0}


def test_metrics_of_a_dataset_are_those_of_all_its_samples(arrays, metrics):
    dataset = arrays(8, 8, 8, 3)
    values = MetricEvaluator(model_evaluate_func=mean_of, metrics=metrics).evaluate_dataset(dataset)
    samples = np.concatenate(dataset)

    assert values["f1"] == f1_score(samples)
    assert values["largest"] == max(samples.tolist())
    assert values["mean_abs"] == mean_of_means(dataset, np.abs)
    assert values["loss"] == mean_of_means(dataset)


def test_metrics_of_a_batch_are_those_of_its_samples(metrics):
    batch = np.array([-1.0, 0.1, 0.5, 2.0])
    values = MetricEvaluator(model_evaluate_func=mean_of, metrics=metrics).evaluate_batch(batch)

    # above 0.2: two, above 0: three, both: two
    assert values == {"loss": 0.4, "mean_abs": 0.9, "f1": 2 * 2 / (2 + 3), "largest": 2.0}


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 5, 100])
def test_chunks_give_the_same_metrics(metrics, chunk_size):
    dataset = [np.array([1.0, -2.0, 3.0, 4.0, 6.0]), np.array([0.0, 5.0, -7.0]), np.array([9.0])]
    metrics["num_samples"] = Metric(inputs=lambda batch, output: batch, compute=len)
    whole = MetricEvaluator(model_evaluate_func=mean_of, metrics=metrics)
    cut = MetricEvaluator(model_evaluate_func=mean_of, metrics=metrics, batch_chunk_size=chunk_size)
    expected, values = whole.evaluate_dataset(dataset), cut.evaluate_dataset(dataset)

    assert values["num_samples"] == 9
    assert [values[name] for name in ("f1", "largest")] == [expected[name] for name in ("f1", "largest")]
    chunks = [batch[at : at + chunk_size] for batch in dataset for at in range(0, len(batch), chunk_size)]
    assert values["loss"] == mean_of_means(chunks)
    assert values["mean_abs"] == mean_of_means(chunks, np.abs)
    # each of at most 9 chunks has a mean that was rounded; together the samples' magnitudes are 37
    assert values["loss"] == pytest.approx(19 / 9, abs=9 * 2**-53 * 37 / 9)
    assert cut.evaluate_batch(dataset[0])["f1"] == whole.evaluate_batch(dataset[0])["f1"]


def test_a_model_never_sees_more_than_a_chunk():
    sizes = []
    evaluator = MetricEvaluator(
        model_evaluate_func=lambda batch, **_: sizes.append(len(batch)) or mean_of(batch, None, True),
        batch_chunk_size=2,
    )
    evaluator.evaluate_dataset([np.zeros(5), np.zeros(2)])

    assert sizes == [2, 2, 1, 2]


@pytest.mark.parametrize(
    ("options", "sizes"),
    [({}, [2, 2, 1]), ({"batch_chunk_size": 3}, [3, 2]), ({"batch_chunk_size": 9}, [5])],
    ids=str,
)
def test_an_evaluator_cuts_as_its_trainer_does_unless_it_has_a_size_of_its_own(returning, options, sizes):
    """Its accumulation is for training alone: each batch of a dataset is evaluated as it is."""
    seen = []
    parameters = LinearRegression(num_features=2).parameters
    trainer = fake_trainer(GradientDescent(parameters), batch_chunk_size=2, gradient_accumulation_steps=4)
    trainer.set_training_model(returning(lambda batch: seen.append(len(batch)) or (float(np.mean(batch)), len(batch))))

    assert MetricEvaluator(trainer=trainer, **options).evaluate_dataset([np.arange(5.0)]) == {"loss": 2.0}
    assert seen == sizes


class Columns:
    """Cuts a batch with a sample in each column."""

    def __init__(self, batch):
        self.batch = batch

    def __len__(self):
        return self.batch.shape[1]

    def __getitem__(self, samples):
        return self.batch[:, samples]


class ColumnsFromBehind(Columns):
    def __getitem__(self, samples):
        return self.batch[:, ::-1][:, samples]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [[0, 1], [2]]),
        ({"batch_chunk_size": 1}, [[0], [1], [2]]),
        ({"chunkable_batch_wrapper": ColumnsFromBehind}, [[2, 1], [0]]),
    ],
    ids=["its trainer's", "its trainer's, with a size of its own", "its own, with its trainer's size"],
)
def test_an_evaluators_wrapper_is_its_trainers_unless_it_has_its_own(returning, options, expected):
    seen = []
    parameters = LinearRegression(num_features=2).parameters
    trainer = fake_trainer(GradientDescent(parameters), batch_chunk_size=2, chunkable_batch_wrapper=Columns)
    trainer.set_training_model(returning(lambda batch: seen.append(batch[0].tolist()) or (1.0, batch.shape[1])))
    MetricEvaluator(trainer=trainer, **options).evaluate_batch(np.stack([np.arange(3)] * 2))

    assert seen == expected


def test_a_wrapper_needs_a_chunk_size():
    with pytest.raises(ConfigurationError, match="chunkable_batch_wrapper is used with batch_chunk_size only"):
        MetricEvaluator(model_evaluate_func=mean_of, chunkable_batch_wrapper=Columns)


def test_a_metric_may_give_a_tuple_or_a_dict():
    metrics = {
        "range": Metric(inputs=lambda batch, output: batch, compute=lambda values: (values.max(), values.min())),
        "by_sign": Metric(
            inputs=lambda batch, output: batch,
            compute=lambda values: {"positive": np.sum(values > 0), "negative": np.sum(values < 0)},
        ),
    }
    evaluator = MetricEvaluator(model_evaluate_func=mean_of, metrics=metrics)
    values = evaluator.evaluate_dataset([np.array([1.0, -2.0]), np.array([4.0])])

    assert values["range"] == (4.0, -2.0)
    assert values["by_sign"] == {"positive": 2, "negative": 1}
    assert type(values["by_sign"]["positive"]) is int


def test_a_metric_called_loss_replaces_the_default():
    evaluator = MetricEvaluator(
        model_evaluate_func=mean_of,
        metrics={"loss": Metric(inputs=lambda batch, output: output.loss, compute=lambda losses: float(losses.sum()))},
    )

    assert evaluator.evaluate_dataset([np.array([1.0, 3.0]), np.array([5.0])]) == {"loss": 7.0}


def test_a_trainers_model_is_evaluated_in_inference_mode_with_the_settings(make_trainer, mean_model):
    evaluator = MetricEvaluator(trainer=make_trainer(mean_model))

    assert evaluator.evaluate_batch(np.array([1.0, 2.0]), evaluate_settings={"beam": 3}) == {"loss": 1.5}
    assert evaluator.evaluate_dataset([np.array([1.0])], evaluate_settings="greedy") == {"loss": 1.0}
    assert mean_model.calls == [({"beam": 3}, True), ("greedy", True)]


def test_a_function_is_called_in_inference_mode_with_the_settings():
    seen = []

    def evaluate(batch, evaluate_settings, inference_mode):
        seen.append((evaluate_settings, inference_mode))
        return 1.0, 1

    MetricEvaluator(model_evaluate_func=evaluate).evaluate_batch(np.zeros(1), evaluate_settings="greedy")

    assert seen == [("greedy", True)]


def test_evaluating_moves_no_weights(make_trainer, regression_batches):
    trainer = make_trainer()
    MetricEvaluator(trainer=trainer).evaluate_dataset(regression_batches(4, 4))

    assert all(np.all(array == 0) for array in trainer.training_model.parameters.values())


def test_a_trainer_without_a_training_model_says_what_to_do(make_trainer):
    trainer = make_trainer()
    trainer.training_model = None
    with pytest.raises(ConfigurationError, match=r"no training model: call trainer.set_training_model"):
        MetricEvaluator(trainer=trainer).evaluate_batch(np.zeros(1))


def test_a_function_that_gives_no_loss_is_refused():
    with pytest.raises(TrainingModelError, match="returned None"):
        MetricEvaluator(model_evaluate_func=lambda batch, **_: None).evaluate_batch(np.zeros(1))


@pytest.mark.parametrize("show_progress", [False, True])
def test_an_empty_dataset_is_an_error_that_names_it(show_progress):
    evaluator = MetricEvaluator(model_evaluate_func=mean_of, show_progress=show_progress)
    with pytest.raises(DatasetError, match=r"no batches to evaluate in validation.*only once"):
        evaluator.evaluate_dataset(iter([]), name="validation")


def test_a_progress_bar_goes_to_standard_error(capsys):
    MetricEvaluator(model_evaluate_func=mean_of, show_progress=True).evaluate_dataset([np.ones(1)] * 3, name="test set")
    shown = capsys.readouterr()

    assert "test set" in shown.err
    assert "3" in shown.err
    assert shown.out == ""


def test_nothing_is_shown_unless_asked_for(capsys):
    MetricEvaluator(model_evaluate_func=mean_of).evaluate_dataset([np.ones(1)] * 3)

    assert capsys.readouterr() == ("", "")


def test_a_streaming_metric_that_was_given_is_left_as_it_is(metrics):
    mine = Largest()
    mine.update([100.0])
    evaluator = MetricEvaluator(
        model_evaluate_func=mean_of, metrics={"largest": Metric(inputs=lambda batch, _: batch, compute=mine)}
    )

    assert evaluator.evaluate_dataset([np.array([1.0])])["largest"] == 1.0
    assert evaluator.evaluate_batch(np.array([2.0]))["largest"] == 2.0
    assert mine.largest == 100.0


def test_streaming_over_a_dataset_takes_constant_memory():
    evaluator = MetricEvaluator(
        model_evaluate_func=mean_of, metrics={"largest": Metric(inputs=lambda batch, _: batch, compute=Largest())}
    )

    def peak(num_batches):
        tracemalloc.reset_peak()
        evaluator.evaluate_dataset(np.full(500, float(number)) for number in range(num_batches))
        return tracemalloc.get_traced_memory()[1]

    tracemalloc.start()
    try:
        peak(2_500)  # fills the interpreter's own stock of freed objects, at most 2,000 of a kind
        few, many = peak(200), peak(3_000)
    finally:
        tracemalloc.stop()

    # 2,800 more batches hold 11 MB: keeping a single number of each would take more than this.
    assert many - few < 2_800 * 8
