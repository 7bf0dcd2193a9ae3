"""Shows how training goes, in words."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from mlpug.callbacks.callback import Callback
from mlpug.callbacks.metrics import LogCondition
from mlpug.errors import ConfigurationError
from mlpug.logging import write
from mlpug.logs import Logs
from mlpug.validation import checked_count, checked_function

_RULE = "#" * 79
_LEVELS = {
    "batch": "Batch:",
    "sliding_window": "Moving average:",
    "epoch": "Over the epoch:",  # what the host computes itself
    "dataset": "Computed over dataset:",
}
_PARAMETERS = "training_params"
_NOT_METRICS = {"did_update_model"}


class LogProgress(Callback):
    """Prints the metrics of some sets every `log_period` batches, and at the end of each epoch.

    Only the first process prints.

    Args:
        log_period: print at the first batch of an epoch, and each `log_period` batches later.
        log_condition_func: ``f(logs, dataset_batch) -> bool`` instead of a period; `dataset_batch` is the batch that
            was just trained on.
        set_names: whose metrics to print, in this order; by default of every set that the logs have.
        batch_level: whether to print during an epoch, or only at its end.

    Raises:
        ConfigurationError: a period below 1, or set names that aren't a list of strings.

    >>> LogProgress(log_period=500, set_names=["training", "validation"]).required_metric_paths()
    ['training', 'validation']
    """

    def __init__(
        self,
        log_period: int = 200,
        log_condition_func: LogCondition | None = None,
        set_names: Sequence[str] | None = None,
        batch_level: bool = True,
    ) -> None:
        if isinstance(set_names, str) or not all(isinstance(name, str) for name in set_names or ()):
            raise ConfigurationError(f'set_names must be a list of names such as ["training"], not {set_names!r}.')
        self._log_period = checked_count("log_period", log_period)
        self._log_condition_func = checked_function("log_condition_func", log_condition_func)
        self._set_names = set_names
        self._batch_level = batch_level
        self._pace: _Pace | None = None

    def required_metric_paths(self) -> Iterable[str]:
        """The sets whose metrics are printed."""
        return list(self._set_names or ())

    def on_epoch_start(self, logs: Logs) -> None:
        """Start the clock for the time to go."""
        self._pace = _Pace(0, time.perf_counter())

    def on_batch_training_completed(self, batch: Any, logs: Logs) -> None:
        """Print, where it is time to."""
        if not self._batch_level or not self._prints():
            return
        if self._log_condition_func is not None:
            if not self._log_condition_func(logs, batch):
                return
        elif logs["current"]["batch_step"] % self._log_period:
            return
        if self._pace is None:  # a resumed run goes on within an epoch: how fast it goes shows from here
            self._pace = _Pace(logs["current"]["batch_step"] + 1, time.perf_counter())
        write(batch_report(logs, self._set_names, self._pace.seconds_to_go(logs)))

    def on_epoch_completed(self, logs: Logs) -> None:
        """Print the epoch's result."""
        if self._prints():
            write(epoch_report(logs, self._set_names))

    def _prints(self) -> bool:
        """Asked before a value is read: what another process doesn't print doesn't leave its device either."""
        return self.manager.trainer.process.rank == 0


class _Pace:
    """How fast the batches of this epoch go by, with everything that happens between them."""

    def __init__(self, first_batch_step: int, started_at: float) -> None:
        self._first_batch_step = first_batch_step
        self._started_at = started_at

    def seconds_to_go(self, logs: Logs) -> float | None:
        if logs["final_batch_step"] is None:
            return None
        batch_step = logs["current"]["batch_step"]
        done = batch_step - self._first_batch_step + 1
        if not done:
            return None
        to_go: int = logs["final_batch_step"] - batch_step
        seconds: float = (time.perf_counter() - self._started_at) / done * to_go
        return seconds


def batch_report(logs: Logs, set_names: Sequence[str] | None, seconds_to_go: float | None) -> str:
    """What is printed during an epoch."""
    current = logs["current"]
    final_batch_step = logs["final_batch_step"]
    average = current[_PARAMETERS]["sliding_window"]["duration"]
    parts = [
        f"Epoch {current['epoch']}/{logs['final_epoch']}",
        f"Batch {current['batch_step']}" + ("" if final_batch_step is None else f"/{final_batch_step}"),
        *([] if seconds_to_go is None else [f"ETA {as_clock(seconds_to_go)}"]),
        f"Average batch time {_as_short_time(average)}",
    ]
    return "\n".join(["\t".join(parts), *_sections(current, set_names, ("batch", "sliding_window", "dataset")), ""])


def epoch_report(logs: Logs, set_names: Sequence[str] | None) -> str:
    """What is printed at the end of an epoch."""
    current = logs["current"]
    duration = as_clock(current[_PARAMETERS]["epoch"]["duration"])
    # The last batch alone says little about an epoch: it is shown only where there is nothing better.
    levels = ("sliding_window", "epoch", "dataset")
    sections = _sections(current, set_names, levels) or _sections(current, set_names, ("batch",))
    title = f"Epoch {current['epoch']}/{logs['final_epoch']}\tREADY - Duration {duration}"
    return "\n".join([_RULE, title, *sections, "\n"])


def _sections(current: Logs, set_names: Sequence[str] | None, levels: Iterable[str]) -> list[str]:
    """A titled block for each level (batch, sliding window, dataset) that has something to show."""
    names = set_names if set_names is not None else [name for name in current if name != _PARAMETERS]
    lines = []
    for level in levels:
        rows = []
        for name in names:
            written = current.get(name)
            if isinstance(written, Mapping) and level in written:
                metrics = {metric: value for metric, value in written[level].items() if metric not in _NOT_METRICS}
                if metrics:
                    rows.append(metrics_row(name, metrics))
        if rows:
            lines += [_LEVELS[level], *rows, ""]
    return lines


def metrics_row(set_name: str, metrics: Mapping[str, Any]) -> str:
    """The metrics of a set in a line; what is nested follows as a tree.

    >>> print(metrics_row("validation", {"loss": 0.346, "f1": {"cat": 0.5, "dog": 0.25}}))
    validation     : loss          0.346.
                     f1
                     ├── cat           0.500
                     └── dog           0.250
    """
    flat = [f"{name:<13} {as_text(value)}" for name, value in metrics.items() if not isinstance(value, Mapping)]
    lines = [f"{set_name:<15}: " + (", ".join(flat) + "." if flat else "")]
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            lines += [" " * 17 + name, *(" " * 17 + line for line in _tree(value))]
    return "\n".join(lines)


def _tree(values: Mapping[str, Any]) -> list[str]:
    lines = []
    for index, (name, value) in enumerate(values.items()):
        is_last = index == len(values) - 1
        branch, below = ("└── ", "    ") if is_last else ("├── ", "│   ")
        if isinstance(value, Mapping):
            lines += [branch + str(name), *(below + line for line in _tree(value))]
        else:
            lines.append(f"{branch}{name!s:<13} {as_text(value)}")
    return lines


def as_text(value: Any) -> str:
    """A metric's value as progress shows it; of a tuple the first.

    >>> [as_text(value) for value in (0.23751, 1.5e-6, 12, (0.5, "details"), None)]
    ['0.238', '1.50e-06', '12', '0.500', '-']
    """
    if isinstance(value, tuple) and value:
        return as_text(value[0])
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3f}" if value == 0 or 0.001 <= abs(value) < 100_000 or value != value else f"{value:.2e}"
    return str(value)


def as_clock(seconds: float) -> str:
    """
    >>> as_clock(3725.4)
    '1:02:05'
    """
    return str(timedelta(seconds=round(seconds)))


def _as_short_time(seconds: float) -> str:
    return f"{seconds:.2f}s" if seconds >= 1 else f"{seconds * 1000:.1f}ms"
