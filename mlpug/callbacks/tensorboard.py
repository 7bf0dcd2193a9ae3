"""Curves of metrics for TensorBoard."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlpug.callbacks.callback import Callback
from mlpug.callbacks.numbers import named_paths, numbers_in
from mlpug.errors import ConfigurationError, MlpugWarning
from mlpug.event_files import EventFile
from mlpug.logs import Logs
from mlpug.validation import checked_count

# What a set's own curves are of; those of anything else have it in their name.
_OWN_KIND = {"training": "batch", "training_params": "batch"}


class Tensorboard(Callback):
    """Writes metrics as curves that ``tensorboard --logdir runs`` shows.

    A metric has the same name in all sets, so that its curves share a plot: those of training, of training's sliding
    window and of validation are runs of their own, ``<experiment>/training``, ``<experiment>/training-sliding-window``
    and ``<experiment>/validation``. The steps are batches over all of training (``global_iter``). Only the first
    process writes.

    Args:
        experiment_name: the folder of this run's curves, with which a resumed run goes on. A new run of the same name
            is shown in place of the old one, whose files stay.
        metric_paths: which, such as ``["training.batch.loss", "validation.dataset.loss"]``; a path of several values,
            such as a loss for each optimizer, has a curve for each. Or a dict of paths by the names to show them under.
        dataset_name: what to call the set, instead of the first part of the path.
        label_name: is added to the set's name, to tell two runs of one experiment apart.
        batch_level: write at batches, or at the end of each epoch.
        log_period: every so many batches, from the first of an epoch on, or epochs.
        directory: where experiments are.

    Raises:
        ConfigurationError: no paths, names that can't be those of folders, or a period below 1; when the manager is
            made: a path that nobody writes.

    >>> Tensorboard("digits", ["training.batch.loss", "training.sliding_window.loss"]).required_metric_paths()
    ['training.batch.loss', 'training.sliding_window.loss']
    """

    def __init__(
        self,
        experiment_name: str,
        metric_paths: Sequence[str] | Mapping[str, str],
        dataset_name: str | None = None,
        label_name: str | None = None,
        batch_level: bool = True,
        log_period: int = 1,
        directory: str | os.PathLike[str] = "runs",
    ) -> None:
        self._pairs = [(path, _shown_as(name, path)) for name, path in named_paths(metric_paths)]
        if not self._pairs:
            raise ConfigurationError("metric_paths must have a metric path at least, and is empty.")
        _check_folder("experiment_name", experiment_name)
        for argument, name in (("dataset_name", dataset_name), ("label_name", label_name)):
            if name is not None:
                _check_folder(argument, name)
        self._experiment_name = experiment_name
        self._dataset_name = dataset_name
        self._label_name = label_name
        self._batch_level = batch_level
        self._log_period = checked_count("log_period", log_period)
        self._directory = Path(directory)
        self._files: dict[str, EventFile] = {}
        self._first_step = 0  # that is written here, and not by the run that is resumed
        self._next_step = 0  # after the last one that was written
        self._has_written = False

    @property
    def name(self) -> str:
        """What the callback's state is kept under."""
        level = "batch" if self._batch_level else "epoch"
        return f"Tensorboard: {self._dataset_name}, {self._label_name}, {level}, {self._paths}"

    def required_metric_paths(self) -> Iterable[str]:
        """What is shown."""
        return [path for path, _ in self._pairs]

    def get_state(self) -> Any:
        """How far the curves go, now that all of it is in the files."""
        for file in self._files.values():
            file.flush()
        return {"next_step": self._next_step}

    def __getstate__(self) -> dict[str, Any]:
        """Without open files: a copy writes to its own."""
        return {**super().__getstate__(), "_files": {}}

    def set_state(self, state: Any) -> None:
        """Go on with the curves of an earlier run; what it wrote after this moment doesn't count any more."""
        self._first_step = self._next_step = state["next_step"]

    def on_batch_training_completed(self, batch: Any, logs: Logs) -> None:
        """Write, where it is time to."""
        if self._batch_level and logs["current"]["batch_step"] % self._log_period == 0:
            self._write(logs)

    def on_epoch_completed(self, logs: Logs) -> None:
        """Write, where it is time to."""
        if not self._batch_level and (logs["current"]["epoch"] + 1) % self._log_period == 0:
            self._write(logs)

    def on_training_ended(
        self,
        logs: Logs,
        stopped_early: bool,
        stopped_on_error: bool,
        interrupted: bool,
        callback_calls_success: bool,
    ) -> None:
        """Let go of the files."""
        while self._files:
            self._files.popitem()[1].close()

    def _write(self, logs: Logs) -> None:
        if self.manager.trainer.process.rank > 0:
            return
        step = logs["current"]["global_iter"]
        values = [(path, shown_as, logs.at(path)) for path, shown_as in self._shown(logs)]
        found = [each for each in values if each[2] is not None]
        for path, shown_as, value in found:
            for tag, number in _numbers(path, shown_as, value):
                self._file_of(path).add(tag, number, step)
        if found:
            self._next_step = step + 1
        elif not self._has_written:
            warnings.warn(
                f"{type(self).__name__} found none of {self._paths} in the logs: put it behind the callback "
                "that writes them.",
                MlpugWarning,
                stacklevel=2,
            )
        self._has_written = True

    def _shown(self, logs: Logs) -> Iterable[tuple[str, str]]:
        """Paths of values, and what to call them."""
        return self._pairs

    @property
    def _paths(self) -> str:
        return ", ".join(path for path, _ in self._pairs)

    def _file_of(self, path: str) -> EventFile:
        set_name, *rest = path.split(".")
        own_kind = _OWN_KIND.get(set_name, "dataset")
        kind = rest[0] if rest else own_kind
        run = self._dataset_name or set_name
        if kind != own_kind:
            run = f"{run}-{kind.replace('_', '-')}"
        if self._label_name is not None:
            run = f"{run}-{self._label_name}"
        if run not in self._files:
            self._files[run] = EventFile(self._directory / self._experiment_name / run, self._first_step)
        return self._files[run]


class AutoTensorboard(Tensorboard):
    """Writes everything that a set has in the logs: see `Tensorboard`.

    Args:
        experiment_name: the folder of this run's curves.
        dataset_name: the set, such as ``"training"``, ``"validation"`` or ``"training_params"``.
        label_name: is added to the set's name.
        batch_level: write at batches, or at the end of each epoch; by default at batches for what comes from training,
            and else at the end of each epoch.
        log_period: every so many batches, from the first of an epoch on, or epochs.
        directory: where experiments are.

    >>> AutoTensorboard("digits", "validation").required_metric_paths()
    ['validation']
    """

    def __init__(
        self,
        experiment_name: str,
        dataset_name: str,
        label_name: str | None = None,
        batch_level: bool | None = None,
        log_period: int = 1,
        directory: str | os.PathLike[str] = "runs",
    ) -> None:
        if batch_level is None:
            batch_level = dataset_name in ("training", "training_params")
        super().__init__(
            experiment_name,
            [dataset_name],
            label_name=label_name,
            batch_level=batch_level,
            log_period=log_period,
            directory=directory,
        )
        self._set_name = dataset_name

    def _shown(self, logs: Logs) -> Iterable[tuple[str, str]]:
        kinds = logs["current"].get(self._set_name, {})
        for kind, values in kinds.items():
            for name in values if isinstance(values, Mapping) else ():
                yield f"{self._set_name}.{kind}.{name}", name


def _numbers(path: str, tag: str, value: Any) -> Iterator[tuple[str, float]]:
    """The numbers in a value, by what to call their curves."""
    for names, number in numbers_in(value):
        if number is None:
            raise ConfigurationError(
                f"{'.'.join((path, *names))} is no number, and only numbers have curves: name the path of a number, or "
                "let the metric return a number, a tuple that begins with one, or a dict of them."
            )
        yield "/".join((tag, *names)), number


def _shown_as(name: str | None, path: str) -> str:
    """By itself a metric is called the same in all sets, whatever it was computed over."""
    return name or ".".join(path.split(".")[2:]) or path


def _check_folder(argument: str, name: Any) -> None:
    if not isinstance(name, str) or not name.strip() or name in (".", "..") or set(name) & set("/\\\0"):
        raise ConfigurationError(f"{argument} must be a name that a folder can have, not {name!r}.")
