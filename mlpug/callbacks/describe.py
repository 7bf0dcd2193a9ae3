"""Callbacks that tell about the batches and the logs themselves."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mlpug.callbacks.callback import Callback
from mlpug.logging import write
from mlpug.logs import Logs
from mlpug.trees import num_samples_in


class BatchSizeLogger(Callback):
    """Writes the number of samples in each batch to ``training_params.batch.size``.

    That is the length of the first axis of the batch's first array, or None where there is none.

    >>> list(BatchSizeLogger().metric_paths())
    ['training_params.batch.size']
    """

    def metric_paths(self) -> Iterable[str]:
        """The metric path that this callback writes."""
        return ["training_params.batch.size"]

    def required_of_run(self) -> Iterable[str]:
        """Batches."""
        return ["batches"]

    def on_batch_training_start(self, batch: Any, logs: Logs) -> None:
        """Write the size before the batch is trained on, so that it is there for every later hook."""
        logs["current"]["training_params"]["batch"]["size"] = num_samples_in(batch)


class DescribeLogsObject(Callback):
    """Prints everything that the logs hold, after the first batch and after the first epoch.

    Every value is read for that: put it in the list to learn the names and metric paths, and take it out again.

    >>> print(describe(Logs(epoch=0, current=Logs(training=Logs(batch=Logs(loss=0.5))))))
    logs
      epoch: 0
      current
        training
          batch
            loss: 0.5
    """

    def __init__(self) -> None:
        self._after_batch = True
        self._after_epoch = True

    def get_state(self) -> Any:
        """What is still to be printed."""
        return {"after_batch": self._after_batch, "after_epoch": self._after_epoch}

    def set_state(self, state: Any) -> None:
        """Print nothing again."""
        self._after_batch, self._after_epoch = state["after_batch"], state["after_epoch"]

    def on_batch_training_completed(self, batch: Any, logs: Logs) -> None:
        """Print once."""
        if self._after_batch:
            self._after_batch = False
            write(f"After the first batch:\n{describe(logs)}\n")

    def on_epoch_completed(self, logs: Logs) -> None:
        """Print once."""
        if self._after_epoch:
            self._after_epoch = False
            write(f"After the first epoch:\n{describe(logs)}\n")


def describe(logs: Logs) -> str:
    """The names and values in the logs, a line each."""
    return "\n".join(["logs", *_lines(logs, "  ")])


def _lines(logs: Logs, indent: str) -> Iterable[str]:
    for name, value in logs.items():
        if isinstance(value, Logs):
            yield f"{indent}{name}"
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{name}: {value!r}"
