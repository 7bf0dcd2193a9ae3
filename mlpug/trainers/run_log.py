"""Keeps the logs' account of the run: where it is, how long things took, whether the weights moved."""

from __future__ import annotations

import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mlpug.adapter import StepOutput
from mlpug.errors import DatasetError, MlpugWarning
from mlpug.logs import Lazy, Logs

_OF_A_LENGTH = (
    " If it doesn't know its length, epochs of num_batches_per_epoch go on in it where the one before ended: leave "
    "that out, or let the dataset repeat without end."
)
# What a callback that serves in many runs may look for, and finds None where this one has no such logger or option.
_IN_MANY_RUNS = (
    "training.batch.loss",
    "training.sliding_window.loss",
    "validation.dataset.loss",
    "training_params.skipped_batches",
)
_DURATION_WINDOW = 100  # batches; enough to smooth, short enough to follow a change


@dataclass(frozen=True, slots=True)
class Position:
    """Where a run is, between two batches."""

    epoch: int  # how many epochs ran to their end, and were told so
    batch: int  # how many batches of the next one are done
    global_iter: int  # how many batches are done in all


class RunLog:
    """The first listener of a run: what it writes is there when callbacks are called.

    Attributes:
        logs: the logs object of the run.
        step_output: what the step gave for the batch that just ended; None while there is none.
        very_first_batch: the one of all of training, while it is the latest.
        completed_epochs: how many epochs ran to their end.
        batch_started_at: from when the duration of the batch counts.
        expects_batches: whether an epoch must have batches, as many as were told. What a host's own run does with its
            data is the host's affair.
    """

    def __init__(
        self, num_epochs: int, learning_rates: Callable[[], Mapping[str, float]], to_host: Callable[[Any], Any]
    ) -> None:
        self._batch = Logs()
        self._batch_params = Logs()
        self._durations: deque[float] = deque(maxlen=_DURATION_WINDOW)
        window_params, self._epoch_params = Logs(), Logs()
        self._current = Logs(
            epoch=0,
            batch_step=0,
            global_iter=0,
            is_best=False,
            training=Logs(batch=self._batch),
            training_params=Logs(batch=self._batch_params, sliding_window=window_params, epoch=self._epoch_params),
        )
        self.logs = Logs(epoch=0, final_epoch=num_epochs - 1, final_batch_step=None, best=None, current=self._current)
        self.step_output: StepOutput | None = None
        self.very_first_batch: Any = None
        self.completed_epochs = 0
        self._window_params = window_params
        self._learning_rates = learning_rates
        self._to_host = to_host
        # A Lazy isn't used up when it is read: the same one serves each batch.
        self._lazy_learning_rate = Lazy(self._learning_rate)
        self._lazy_average_duration = Lazy(self._average_duration)
        self._num_batches_per_epoch: int | None = None
        self._batches_done = 0
        self._first_batch = 0  # of the epoch, counted over all of training
        self._warned = False
        self._declared: list[str] = []
        self.expects_batches = True
        self.batch_started_at = self._epoch_started_at = 0.0

    @staticmethod
    def metric_paths(has_gradient_norm: bool) -> list[str]:
        """The metric paths that are there in every run, and in those whose gradients are clipped."""
        return [
            *(["training.batch.gradient_norm"] if has_gradient_norm else []),
            "training.batch.did_update_model",
            "training_params.batch.duration",
            "training_params.batch.lr",
            "training_params.sliding_window.duration",
            "training_params.epoch.duration",
        ]

    def declare(self, paths: Iterable[str]) -> None:
        """Paths that others write: what none of them is, and none of this account's, the logs refuse to look for."""
        self._declared = [*_IN_MANY_RUNS, *self.metric_paths(has_gradient_norm=True), *paths]
        self.logs.declare(self._declared)

    def names_known(self, level: str, names: Iterable[str]) -> None:
        """What the host writes by itself at a level, under which any name might have come before."""
        of_level = [f"{level}.{name}" for name in names]
        self._declared = [*(path for path in self._declared if path != level), *of_level]
        self.logs.declare(self._declared, self.logs.undeclared())

    @property
    def position(self) -> Position:
        """How much is done."""
        done = self._batches_done
        return Position(epoch=self.completed_epochs, batch=done - self._first_batch, global_iter=done)

    def get_state(self) -> dict[str, Any]:
        """What a resumed run counts on from."""
        undeclared = self.logs.undeclared()
        return {
            "completed_epochs": self.completed_epochs,
            "batches_done": self._batches_done,
            "first_batch": self._first_batch,
            "durations": list(self._durations),
            "epoch_duration": time.perf_counter() - self._epoch_started_at,
            **({"undeclared_paths": undeclared} if undeclared else {}),
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Count on from there."""
        self.completed_epochs = state["completed_epochs"]
        self._batches_done = state["batches_done"]
        self._first_batch = state["first_batch"]
        self._durations.extend(state["durations"])
        self._epoch_started_at = time.perf_counter() - state["epoch_duration"]
        self.logs.declare(self._declared, state.get("undeclared_paths", ()))

    def training_started(self, num_batches_per_epoch: int | None) -> None:
        self._num_batches_per_epoch = num_batches_per_epoch
        self.logs["final_batch_step"] = None if num_batches_per_epoch is None else num_batches_per_epoch - 1

    def epoch_started(self) -> None:
        self.logs["epoch"] = self._current["epoch"] = self.completed_epochs
        self._current["batch_step"] = 0
        self._current["global_iter"] = self._batches_done
        self._first_batch = self._batches_done
        self._epoch_started_at = time.perf_counter()

    def batch_started(self, batch: Any) -> None:
        # What was not read of the batch before is let go: it may hold arrays as large as the model's outputs.
        self._batch.clear()
        self.step_output = None
        done = self._batches_done
        self.very_first_batch = batch if done == 0 else None
        self._current.update(batch_step=done - self._first_batch, global_iter=done)
        self.batch_started_at = time.perf_counter()

    def batch_ended(self, batch: Any, output: StepOutput, did_update: bool) -> None:
        duration = time.perf_counter() - self.batch_started_at
        self._durations.append(duration)
        self._batches_done += 1
        self.step_output = output
        self._batch["did_update_model"] = did_update
        if output.gradient_norm is not None:
            self._batch["gradient_norm"] = Lazy(self._to_host, output.gradient_norm)
        self._batch_params.update(duration=duration, lr=self._lazy_learning_rate)
        self._window_params["duration"] = self._lazy_average_duration

    def batch_left_out(self) -> None:
        """It counts: a resumed run finds its place in the data by the number of batches."""
        self._batches_done += 1

    def found_non_finite(self, output: StepOutput) -> None:
        """A batch was left out, because its loss or a gradient isn't finite."""
        params = self._current["training_params"]
        params["skipped_batches"] = params.get("skipped_batches", 0) + 1

    def metrics_logged(self, level: str, metrics: Mapping[str, Any]) -> None:
        """See `Run.on_metrics_logged`."""
        if level == "training.batch":
            written = self._batch
        else:
            set_name, _, name_of_level = level.partition(".")
            written = self._current.child(set_name)[name_of_level] = Logs()
        for name, value in metrics.items():
            lazy = Lazy(self._to_host, value)
            if "." in name:
                _write(written, name, lazy)
            else:
                written[name] = lazy

    def epoch_ended(self, completed: bool) -> None:
        self._epoch_params["duration"] = time.perf_counter() - self._epoch_started_at
        if completed and self.expects_batches:
            self._check_length(self._batches_done - self._first_batch)

    def complete_epoch(self) -> None:
        """Count the epoch as done, now that everybody has heard of its end: after an error in there it is not."""
        self.completed_epochs += 1
        self._first_batch = self._batches_done

    def training_ended(self) -> None:
        """Nothing is counted here."""

    def _check_length(self, num_batches: int) -> None:
        if num_batches == 0 and self.batch_started_at <= self._epoch_started_at:  # none that a hook left out
            raise DatasetError(
                f"The training dataset gave no batches in epoch {self._current['epoch']}. If it is an iterator, it "
                "can be read only once: pass a data loader, a list, or another object that gives a fresh iterator "
                f"each time.{_OF_A_LENGTH if self._num_batches_per_epoch is not None else ''}"
            )
        expected = self._num_batches_per_epoch
        if expected is not None and num_batches < expected and not self._warned:
            self._warned = True
            warnings.warn(
                f"The training dataset ended after {num_batches} batches in epoch {self._current['epoch']}, before "
                f"num_batches_per_epoch={expected}, or a hook of the host's left out the rest; the epoch ended there.",
                MlpugWarning,
                stacklevel=2,
            )

    def _learning_rate(self) -> float | dict[str, float]:
        rates = dict(self._learning_rates())
        return next(iter(rates.values())) if len(rates) == 1 else rates

    def _average_duration(self) -> float:
        return sum(self._durations) / len(self._durations)


def _write(logs: Logs, name: str, value: Any) -> None:
    """Where a metric path finds it, also a name of the host's that has dots in it.

    >>> logs = Logs()
    >>> _write(logs, "val.loss", 0.5)
    >>> logs
    Logs({'val': {'loss': 0.5}})
    """
    first, _, rest = name.partition(".")
    if rest and isinstance(logs.child(first), Logs):  # and not a metric itself
        _write(logs.child(first), rest, value)
    else:
        logs[name] = value
