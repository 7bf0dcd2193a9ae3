"""A bar for each epoch, with metrics."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlpug.callbacks.callback import Callback
from mlpug.callbacks.numbers import named_paths
from mlpug.callbacks.progress import as_text
from mlpug.logs import Logs

_REFRESH_SECONDS = 0.1


class ProgressBar(Callback):
    """Shows each epoch as a bar of tqdm's, in a terminal or a notebook, with metrics of your choice.

    It is drawn ten times a second at most, and only then is a metric read. Where the output is no terminal nothing is
    shown; only the first process shows anything.

    Args:
        metric_paths: of what to show, or a dict of them by what to call them.

    Raises:
        ConfigurationError: something else; when the manager is made: a path that nobody writes.

    >>> ProgressBar(["training.sliding_window.loss"]).required_metric_paths()
    ['training.sliding_window.loss']
    """

    def __init__(self, metric_paths: Sequence[str] | Mapping[str, str] = ()) -> None:
        self._paths = _by_name(metric_paths)
        self._bar: Any = None
        self._done = 0  # batches that aren't shown yet
        self._drawn_at = 0.0

    def required_metric_paths(self) -> Iterable[str]:
        """What is shown."""
        return list(self._paths.values())

    def __getstate__(self) -> dict[str, Any]:
        """Without the bar that is on the screen."""
        return {**super().__getstate__(), "_bar": None}

    def on_epoch_start(self, logs: Logs) -> None:
        """A new bar."""
        self._open(logs, done=0)

    def on_batch_training_completed(self, batch: Any, logs: Logs) -> None:
        """Draw, where it is time to."""
        if self._bar is None:  # a resumed run goes on within an epoch
            self._open(logs, done=logs["current"]["batch_step"])
        if self._bar.disable:
            return
        self._done += 1
        if time.monotonic() - self._drawn_at >= _REFRESH_SECONDS:
            self._draw(logs)

    def on_epoch_completed(self, logs: Logs) -> None:
        """The bar stays as it is now."""
        if self._bar is not None and not self._bar.disable:
            self._draw(logs)
        self._close()

    def on_training_ended(
        self,
        logs: Logs,
        stopped_early: bool,
        stopped_on_error: bool,
        interrupted: bool,
        callback_calls_success: bool,
    ) -> None:
        """Let go of the bar of an epoch that was cut short."""
        self._close()

    def _open(self, logs: Logs, done: int) -> None:
        self._close()
        bar, is_shown = _bar_class()
        last = logs["final_batch_step"]
        self._done = 0
        self._bar = bar(
            desc=f"Epoch {logs['current']['epoch']}/{logs['final_epoch']}",
            total=None if last is None else last + 1,
            initial=done,
            unit="batch",
            disable=not is_shown or self.manager.trainer.process.rank > 0,
            mininterval=0,  # we ask when it is time, before metrics are read
            miniters=1,
            dynamic_ncols=True,
        )
        self._drawn_at = time.monotonic()

    def _draw(self, logs: Logs) -> None:
        values = {name: logs.at(path) for name, path in self._paths.items()}
        shown = {name: _as_line(value) for name, value in values.items() if value is not None}
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(self._done)
        self._done = 0
        self._drawn_at = time.monotonic()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _bar_class() -> tuple[Any, bool]:
    """The one for a notebook or a terminal, and whether there is either."""
    from tqdm.auto import tqdm

    is_notebook = any(base.__module__ == "tqdm.notebook" for base in tqdm.__mro__)
    return tqdm, is_notebook or sys.stderr.isatty()


def _as_line(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_as_line(below)}" for name, below in value.items())
    return as_text(value)


def _by_name(metric_paths: Any) -> dict[str, str]:
    """Paths by what to call them: their last name, where that is enough to tell them apart."""
    pairs = named_paths(metric_paths)
    last = [path.rpartition(".")[2] for _, path in pairs]
    return {
        name or (short if last.count(short) == 1 else path): path
        for (name, path), short in zip(pairs, last, strict=True)
    }
