"""Callbacks that write metrics to the logs: of the training batches, and of any other dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from itertools import islice
from typing import Any

from mlpug.callbacks.callback import Callback
from mlpug.datasets import DrawnByHost
from mlpug.errors import ConfigurationError, DatasetError
from mlpug.evaluation.metric_evaluator import MetricEvaluator
from mlpug.evaluation.sliding_window import SlidingWindow
from mlpug.logs import Lazy, Logs
from mlpug.validation import checked_count, checked_dataset, checked_function

_TAKEN_NAMES = ("epoch", "batch_step", "global_iter", "is_best", "training_params")  # besides sets in logs["current"]

LogCondition = Callable[[Logs, Any], bool]


class LoggingMode(StrEnum):
    """What metrics are computed over.

    >>> LoggingMode("dataset") is LoggingMode.DATASET
    True
    """

    BATCH = "batch"  # one batch
    BATCH_AND_SLIDING_WINDOW = "batch_and_sliding_window"  # one batch, and the latest batches
    DATASET = "dataset"  # all batches of the dataset


class TrainingMetricsLogger(Callback):
    """Writes the metrics of the batches that are trained on to ``training.batch`` and ``training.sliding_window``.

    They come from the training step's own outputs, so nothing is evaluated again; and nothing is computed, and
    nothing leaves the device, before somebody reads the value. In dataset mode the whole training dataset is evaluated
    in inference mode instead, for ``training.dataset``.

    Args:
        metric_evaluator: which metrics.
        batch_level: write at each batch; else at the end of each epoch (of its last batch, in the batch modes).
        logging_mode: a `LoggingMode`, or its value.
        sliding_window_length: in batches; by default half an epoch of them (100 where nobody knows how long an epoch
            is). The inputs of metrics that aren't means are kept for that many batches.
        log_condition_func: ``f(logs, dataset_batch) -> bool``; asked each time, before anything is picked or
            computed. `dataset_batch` is the training batch, or None at the end of an epoch.
        evaluate_settings: for the training model, in dataset mode.

    Raises:
        ConfigurationError: not a `MetricEvaluator`, an unknown mode, or a length below 1.

    >>> from mlpug.evaluation import MetricEvaluator
    >>> evaluator = MetricEvaluator(model_evaluate_func=lambda batch, **_: batch.mean())
    >>> list(TrainingMetricsLogger(metric_evaluator=evaluator).metric_paths())
    ['training.batch.loss', 'training.sliding_window.loss']
    """

    def __init__(
        self,
        metric_evaluator: MetricEvaluator,
        batch_level: bool = True,
        logging_mode: LoggingMode | str = LoggingMode.BATCH_AND_SLIDING_WINDOW,
        sliding_window_length: int | None = None,
        log_condition_func: LogCondition | None = None,
        evaluate_settings: Any = None,
    ) -> None:
        self._set = _SetOfMetrics("training", metric_evaluator, logging_mode, sliding_window_length)
        if self._set.mode is LoggingMode.DATASET:
            metric_evaluator.check_can_evaluate()
        self._batch_level = batch_level
        self._log_condition_func = checked_function("log_condition_func", log_condition_func)
        self._evaluate_settings = evaluate_settings
        self._latest: tuple[Any, Any] | None = None

    def metric_paths(self) -> Iterable[str]:
        """The metric paths that this callback writes."""
        return self._set.paths()

    def required_of_run(self) -> Iterable[str]:
        """The training dataset, in dataset mode; else batches, where a metric isn't the loss alone."""
        if self._set.mode is LoggingMode.DATASET:
            return ["training_dataset"]
        return ["batches"] if self._set.evaluator.looks_at_batches else []

    @property
    def name(self) -> str:
        """What the callback's state is kept under."""
        return f"TrainingMetricsLogger: {self._set}"

    def get_state(self) -> Any:
        """The windows."""
        return {"windows": self._set.get_state()}

    def set_state(self, state: Any) -> None:
        """Go on with the windows of an earlier run."""
        self._set.set_state(state["windows"])

    def on_training_start(self, logs: Logs) -> None:
        """Make the windows, now that it is known how long an epoch is."""
        if self._set.mode is LoggingMode.DATASET:
            dataset = self.manager.training_dataset
            given = dataset.dataset if isinstance(dataset, DrawnByHost) else dataset
            checked_dataset("training dataset", given, more_than_once=True)
        self._set.start(logs, self.manager.trainer.adapter.to_host)

    def on_batch_training_start(self, batch: Any, logs: Logs) -> None:
        """Let go of the batch before."""
        self._latest = None

    def on_batch_training_completed(self, batch: Any, logs: Logs) -> None:
        """Refer to the step's output; nothing is computed here."""
        if self._batch_level:
            self._log(batch, self.manager.step_output, logs, batch)
        else:
            self._latest = batch, self.manager.step_output

    def on_epoch_completed(self, logs: Logs) -> None:
        """Where metrics are written once an epoch, write them."""
        if not self._batch_level and self._latest is not None:
            (batch, output), self._latest = self._latest, None
            self._log(batch, output, logs, None)

    def _log(self, batch: Any, output: Any, logs: Logs, asked_with: Any) -> None:
        if self._log_condition_func is not None and not self._log_condition_func(logs, asked_with):
            return
        if self._set.mode is LoggingMode.DATASET:
            self._set.write_dataset(logs, self.manager.training_dataset, self._evaluate_settings)
        else:
            metrics = self._set.evaluator.metrics
            self._set.write_batch(logs, lambda metric: [metrics[metric].inputs(batch, output)])


class TestMetricsLogger(Callback):
    """Evaluates a dataset in inference mode and writes its metrics to ``<dataset_name>.dataset``.

    Args:
        dataset: batches, any iterable that can be iterated again and again.
        dataset_name: what the logs call this set.
        metric_evaluator: which metrics.
        batch_level: evaluate at each training batch; else at the end of each epoch.
        logging_mode: a `LoggingMode`, or its value. In the batch modes one batch of the dataset is evaluated each time,
            the next one; after the last comes the first again.
        sliding_window_length: in batches; by default half an epoch of training batches.
        log_condition_func: ``f(logs, dataset_batch) -> bool``; asked each time, before anything is evaluated.
            `dataset_batch` is the batch that was just trained on, or None at the end of an epoch.
        evaluate_settings: for the training model.

    Raises:
        ConfigurationError: a dataset that can't be iterated again and again, not a `MetricEvaluator`, an unknown mode,
            or a length below 1.

    >>> from mlpug.evaluation import MetricEvaluator
    >>> evaluator = MetricEvaluator(model_evaluate_func=lambda batch, **_: batch.mean())
    >>> list(TestMetricsLogger([[1.0]], "validation", metric_evaluator=evaluator).metric_paths())
    ['validation.dataset.loss']
    """

    __test__ = False  # its name begins as pytest's test classes do

    def __init__(
        self,
        dataset: Iterable[Any],
        dataset_name: str,
        metric_evaluator: MetricEvaluator,
        batch_level: bool = True,
        logging_mode: LoggingMode | str = LoggingMode.DATASET,
        sliding_window_length: int | None = None,
        log_condition_func: LogCondition | None = None,
        evaluate_settings: Any = None,
    ) -> None:
        self._set = _SetOfMetrics(dataset_name, metric_evaluator, logging_mode, sliding_window_length)
        metric_evaluator.check_can_evaluate()
        self._dataset = checked_dataset(f"dataset {dataset_name!r}", dataset, more_than_once=True)
        self._batch_level = batch_level
        self._log_condition_func = checked_function("log_condition_func", log_condition_func)
        self._evaluate_settings = evaluate_settings
        self._batches: Iterator[Any] = iter(())
        self._num_batches = 0  # how many of them were taken

    @property
    def name(self) -> str:
        """What the callback's state is kept under."""
        return f"TestMetricsLogger: {self._set}"

    def get_state(self) -> Any:
        """The windows, and how many batches of the dataset were evaluated one by one."""
        return {"windows": self._set.get_state(), "num_batches": self._num_batches}

    def set_state(self, state: Any) -> None:
        """Go on with the windows of an earlier run, and with the batch that was next."""
        self._set.set_state(state["windows"])
        if state["num_batches"]:
            self._batches = islice(iter(self._dataset), state["num_batches"], None)
            self._num_batches = state["num_batches"]

    def metric_paths(self) -> Iterable[str]:
        """The metric paths that this callback writes."""
        return self._set.paths()

    def on_training_start(self, logs: Logs) -> None:
        """Make the windows, now that it is known how long an epoch is."""
        self._set.start(logs, self.manager.trainer.adapter.to_host)

    def on_batch_training_completed(self, batch: Any, logs: Logs) -> None:
        """Evaluate, where that is asked for at each batch."""
        if self._batch_level:
            self._log(logs, batch)

    def on_epoch_completed(self, logs: Logs) -> None:
        """Evaluate, where that is asked for at each epoch."""
        if not self._batch_level:
            self._log(logs, None)

    def _log(self, logs: Logs, training_batch: Any) -> None:
        if self._log_condition_func is not None and not self._log_condition_func(logs, training_batch):
            return
        if self._set.mode is LoggingMode.DATASET:
            self._set.write_dataset(logs, self._dataset, self._evaluate_settings)
        else:
            picked = self._set.evaluator.pick_from_batch(self._next_batch(), self._evaluate_settings)
            self._set.write_batch(logs, picked.__getitem__)

    def _next_batch(self) -> Any:
        for batch in self._batches:
            self._num_batches += 1
            return batch
        self._batches = iter(self._dataset)
        for batch in self._batches:
            self._num_batches = 1
            return batch
        raise DatasetError(f"There are no batches to evaluate in {self._set.name}.")


DatasetMetricsLogger = TestMetricsLogger


class _SetOfMetrics:
    """The metrics of one set, under its name in the logs."""

    def __init__(
        self, name: str, evaluator: MetricEvaluator, mode: LoggingMode | str, window_length: int | None
    ) -> None:
        if not isinstance(evaluator, MetricEvaluator):
            raise ConfigurationError(f"metric_evaluator must be an mlp.evaluation.MetricEvaluator, not {evaluator!r}.")
        if mode not in list(LoggingMode):
            raise ConfigurationError(f"logging_mode must be one of {[str(m) for m in LoggingMode]}, not {mode!r}.")
        self.name = _checked_set_name(name)
        self.evaluator = evaluator
        self.mode = LoggingMode(mode)
        self._window_length = None if window_length is None else checked_count("sliding_window_length", window_length)
        self._windows: dict[str, SlidingWindow] = {}
        self._lazy_window_values: dict[str, Lazy] = {}

    def paths(self) -> list[str]:
        """The metric paths of this set."""
        levels = {
            LoggingMode.BATCH: ["batch"],
            LoggingMode.BATCH_AND_SLIDING_WINDOW: ["batch", "sliding_window"],
            LoggingMode.DATASET: ["dataset"],
        }[self.mode]
        return [f"{self.name}.{level}.{metric}" for level in levels for metric in self.evaluator.metrics]

    def __str__(self) -> str:
        return ", ".join(self.paths())

    def get_state(self) -> dict[str, Any]:
        """The batches in each window."""
        return {metric: window.get_state() for metric, window in self._windows.items()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Fill the windows, where they are still those of the same metrics."""
        for metric, window in self._windows.items():
            if metric in state:
                window.set_state(state[metric])

    def start(self, logs: Logs, to_host: Callable[[Any], Any]) -> None:
        """Make the windows; the default length depends on how long an epoch is."""
        self.evaluator.read_by(to_host)
        if self.mode is LoggingMode.BATCH_AND_SLIDING_WINDOW:
            final_batch_step = logs["final_batch_step"]
            half_an_epoch = 100 if final_batch_step is None else max(1, (final_batch_step + 1) // 2)
            length = self._window_length or half_an_epoch
            self._windows = {name: self.evaluator.sliding_window(name, length) for name in self.evaluator.metrics}
            self._lazy_window_values = {name: Lazy(window.value) for name, window in self._windows.items()}

    def write_batch(self, logs: Logs, pick: Callable[[str], list[Any]]) -> None:
        """Put the values of one batch, and of the windows it is now in, where they can be read.

        `pick` gives a metric's inputs from the batch. A window needs them now; else they are picked when read.
        """
        value = self.evaluator.value
        written = logs["current"].child(self.name)
        batch_logs = written.child("batch")
        if not self._windows:
            for metric in self.evaluator.metrics:
                batch_logs[metric] = Lazy(_picked_value, value, pick, metric)
            return
        window_logs = written.child("sliding_window")
        for metric, window in self._windows.items():
            inputs = pick(metric)
            window.add(inputs)
            batch_logs[metric] = Lazy(value, metric, inputs)
            window_logs[metric] = self._lazy_window_values[metric]

    def write_dataset(self, logs: Logs, dataset: Iterable[Any], evaluate_settings: Any) -> None:
        """Evaluate all batches now, with the weights as they are now."""
        values = self.evaluator.evaluate_dataset(dataset, evaluate_settings, name=self.name)
        logs["current"].child(self.name)["dataset"] = Logs(**values)


def _checked_set_name(name: object) -> str:
    if not isinstance(name, str) or not name or "." in name or name in _TAKEN_NAMES:
        raise ConfigurationError(
            f"dataset_name must be a name without a dot, and none of {', '.join(_TAKEN_NAMES)}, not {name!r}."
        )
    return name


def _picked_value(value: Callable[[str, list[Any]], Any], pick: Callable[[str], list[Any]], metric: str) -> Any:
    return value(metric, pick(metric))
