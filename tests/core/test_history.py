"""Every logged value as columns."""

import sys

import numpy as np
import pytest

from mlpug.callbacks import Callback, CheckpointManager, History, TestMetricsLogger, TrainingMetricsLogger
from mlpug.errors import ConfigurationError, MissingDependencyError
from mlpug.evaluation import Metric, MetricEvaluator

DATASET = [np.array([value]) for value in (1.0, 2.0, 4.0)]
VALIDATION = [np.array([3.0]), np.array([5.0, 6.0])]


class Record(Callback):
    def __init__(self):
        self.batches, self.epochs = [], []

    def on_batch_training_completed(self, batch, logs):
        self.batches.append(logs.at("training.batch.loss"))

    def on_epoch_completed(self, logs):
        self.epochs.append(logs.at("validation.dataset.loss"))


@pytest.fixture
def train(make_manager, mean_model):
    def train(*callbacks, num_epochs=2, resume_from=None):
        metrics = {
            "pair": Metric(lambda batch, output: float(batch.sum()), lambda total: (float(np.sum(total)), "detail")),
            "words": Metric(lambda batch, output: 0.0, lambda _: "no number"),
        }
        evaluator = MetricEvaluator(model_evaluate_func=lambda batch, **_: float(batch.mean()), metrics=metrics)
        record = Record()
        loggers = [
            TrainingMetricsLogger(evaluator),
            TestMetricsLogger(VALIDATION, "validation", metric_evaluator=evaluator, batch_level=False),
        ]
        manager = make_manager(DATASET, [*loggers, *callbacks, record], mean_model, num_epochs=num_epochs)
        manager.start_training(resume_from)
        return record

    return train


def test_an_epoch_is_a_row_and_a_number_a_column(train):
    history = History()
    record = train(history)
    columns = history.to_dict()
    assert columns["epoch"] == [0, 1]
    assert columns["global_iter"] == [2, 5]
    assert columns["validation.dataset.loss"] == record.epochs
    assert columns["training.batch.loss"] == [record.batches[2], record.batches[5]]
    assert columns["validation.dataset.pair"] == [14.0, 14.0]  # the first of what the metric gives
    assert columns["training_params.batch.lr"] == [0.05, 0.05]
    assert not any(path.endswith("words") for path in columns)
    assert {len(values) for values in columns.values()} == {2}


def test_a_batch_is_a_row_and_what_isnt_there_yet_is_none(train):
    history = History(batch_level=True)
    record = train(history)
    columns = history.to_dict()
    assert columns["training.batch.loss"] == record.batches
    assert columns["batch_step"] == [0, 1, 2, 0, 1, 2]
    assert columns["validation.dataset.loss"] == [None] * 3 + [record.epochs[0]] * 3


def test_a_period_leaves_rows_out(train):
    batches, epochs = History(batch_level=True, log_period=2), History(log_period=2)
    train(batches, epochs, num_epochs=3)
    assert batches.to_dict()["batch_step"] == [0, 2] * 3
    assert epochs.to_dict()["epoch"] == [1]


def test_a_resumed_run_has_the_rows_of_the_one_before(train, tmp_path):
    def checkpoints():
        return CheckpointManager(tmp_path, "run", metric_to_monitor=None, create_checkpoint_every=1)

    whole = History(batch_level=True), History()
    train(*whole, num_epochs=2)
    first = History(batch_level=True), History()
    train(*first, checkpoints(), num_epochs=1)
    resumed = History(batch_level=True), History()
    train(*resumed, num_epochs=2, resume_from=tmp_path / "run-training-checkpoint.safetensors")
    for one, other in zip(whole, resumed, strict=True):
        expected, found = one.to_dict(), other.to_dict()
        assert expected.keys() == found.keys()
        for path, values in expected.items():
            assert found[path] == values or path.endswith(".duration")


def test_a_column_that_isnt_there_is_named_with_those_that_are():
    with pytest.raises(ConfigurationError, match=r"no column 'training.batch.los' in the history. There are none yet"):
        History().plot("training.batch.los")


@pytest.mark.parametrize(("missing", "use"), [("pandas", History.to_dataframe), ("matplotlib", History.plot)])
def test_a_package_that_is_missing_is_named(monkeypatch, missing, use):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(MissingDependencyError, match=f"needs {missing}: pip install {missing}"):
        use(History())


def test_a_period_below_one_is_refused():
    with pytest.raises(ConfigurationError, match="log_period must be a whole number of at least 1, not 0"):
        History(log_period=0)
