"""Every logged value, as columns."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlpug.callbacks.callback import Callback
from mlpug.callbacks.numbers import numbers_in
from mlpug.errors import ConfigurationError, MissingDependencyError
from mlpug.logs import Logs
from mlpug.validation import checked_count

_COUNTERS = ("epoch", "batch_step", "global_iter")


class History(Callback):
    """Keeps every number in the logs: a row for each epoch, or batch, and a column for each metric path.

    It is part of training checkpoints, so that a resumed run has the rows of the one before. Put it behind the
    callbacks that write metrics. To read a value at each batch makes the host wait for the device.

    Args:
        batch_level: a row for each batch; else for each epoch.
        log_period: a row for every so many batches, from the first of an epoch on, or epochs.

    Raises:
        ConfigurationError: a period below 1.

    >>> history = History()
    >>> history.on_epoch_completed(Logs(current=Logs(epoch=0, validation=Logs(dataset=Logs(loss=0.5)))))
    >>> history.to_dict()
    {'epoch': [0], 'validation.dataset.loss': [0.5]}
    """

    def __init__(self, batch_level: bool = False, log_period: int = 1) -> None:
        self._batch_level = batch_level
        self._log_period = checked_count("log_period", log_period)
        self._num_rows = 0
        self._columns: dict[str, dict[int, float]] = {}  # by path: the values of the rows that have one

    @property
    def name(self) -> str:
        """What the callback's state is kept under."""
        return f"History of {'batches' if self._batch_level else 'epochs'}"

    def to_dict(self) -> dict[str, list[Any]]:
        """The columns by metric path, `epoch` and other counters too: all equally long, None where there is nothing."""
        return {
            path: [_plain(path, values.get(row)) for row in range(self._num_rows)]
            for path, values in self._columns.items()
        }

    def to_dataframe(self) -> Any:
        """The columns as a `pandas.DataFrame`.

        Raises:
            MissingDependencyError: pandas isn't installed.
        """
        try:
            import pandas
        except ModuleNotFoundError as error:
            raise MissingDependencyError("History.to_dataframe() needs pandas: pip install pandas") from error
        return pandas.DataFrame(self.to_dict())

    def plot(self, *metric_paths: str, axes: Any = None) -> Any:
        """Plot columns over the number of batches, and return the `matplotlib` axes.

        Args:
            metric_paths: such as ``"training.sliding_window.loss"``; all in one plot.
            axes: where to plot; by default a new figure.

        Raises:
            ConfigurationError: there is no such column; those that there are are named.
            MissingDependencyError: matplotlib isn't installed.
        """
        for path in metric_paths:
            if path not in self._columns:
                raise ConfigurationError(
                    f"There is no column {path!r} in the history. There are {', '.join(self._columns) or 'none yet'}."
                )
        if axes is None:
            try:
                from matplotlib import pyplot
            except ModuleNotFoundError as error:
                raise MissingDependencyError("History.plot() needs matplotlib: pip install matplotlib") from error
            axes = pyplot.figure().add_subplot()
        steps = self._columns.get("global_iter", {})
        for path in metric_paths:
            values = self._columns[path]
            axes.plot([steps[row] for row in values], list(values.values()), label=path)
        axes.set_xlabel("batches")
        if metric_paths:
            axes.legend()
        return axes

    def get_state(self) -> Any:
        """The columns."""
        return {
            "num_rows": self._num_rows,
            "columns": {
                path: {"rows": np.array(list(values), np.int64), "values": np.array(list(values.values()), np.float64)}
                for path, values in self._columns.items()
            },
        }

    def set_state(self, state: Any) -> None:
        """Go on with the columns of an earlier run."""
        self._num_rows = state["num_rows"]
        self._columns = {
            path: dict(zip(column["rows"].tolist(), column["values"].tolist(), strict=True))
            for path, column in state["columns"].items()
        }

    def on_batch_training_completed(self, batch: Any, logs: Logs) -> None:
        """Keep a row, where it is time to."""
        if self._batch_level and logs["current"]["batch_step"] % self._log_period == 0:
            self._add(logs)

    def on_epoch_completed(self, logs: Logs) -> None:
        """Keep a row, where it is time to."""
        if not self._batch_level and (logs["current"]["epoch"] + 1) % self._log_period == 0:
            self._add(logs)

    def _add(self, logs: Logs) -> None:
        for names, value in numbers_in(logs["current"]):
            if value is not None:
                self._columns.setdefault(".".join(names), {})[self._num_rows] = value
        self._num_rows += 1


def _plain(path: str, value: float | None) -> Any:
    return int(value) if value is not None and path in _COUNTERS else value
