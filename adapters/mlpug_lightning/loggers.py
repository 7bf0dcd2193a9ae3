"""Gives Lightning's loggers mlpug's metrics."""

from __future__ import annotations

from typing import Any

from mlpug.adapter import StepOutput
from mlpug.callbacks.numbers import numbers_in
from mlpug.logs import Logs

_OF_BATCHES = ("batch", "sliding_window")
_OF_EPOCHS = ("dataset", "epoch")


class LoggerFeed:
    """A listener that stands behind all callbacks: what they wrote is there.

    At every `log_every_n_steps`-th batch the loggers get the numbers of batches and sliding windows, and at the end of
    an epoch those of datasets, by their metric paths. The step is the batch's number over all of training, from 0
    (``global_iter``): Lightning's own count where it trains for the first time. At other batches nothing is read.

    Args:
        trainer: Lightning's `Trainer`, whose loggers they are.
        logs: of the run.
    """

    def __init__(self, trainer: Any, logs: Logs) -> None:
        self._trainer = trainer
        self._current: Logs = logs["current"]
        self._period: int = self._trainer.log_every_n_steps if trainer.is_global_zero else 0

    def training_started(self, num_batches_per_epoch: int | None) -> None:
        """Nothing is there yet."""

    def epoch_started(self) -> None:
        """Nothing is there yet."""

    def batch_started(self, batch: Any) -> None:
        """Nothing is there yet."""

    def batch_ended(self, batch: Any, output: StepOutput, did_update: bool) -> None:
        if self._period and (self._current["global_iter"] + 1) % self._period == 0:
            self._log(_OF_BATCHES)

    def batch_left_out(self) -> None:
        """There is nothing to log."""

    def epoch_ended(self, completed: bool) -> None:
        if completed and self._trainer.is_global_zero:
            self._log(_OF_EPOCHS)

    def training_ended(self) -> None:
        """Lightning itself lets go of its loggers."""

    def _log(self, levels: tuple[str, ...]) -> None:
        numbers = {"epoch": float(self._current["epoch"])}  # as Lightning adds it
        for set_name, of_set in self._current.items():
            if isinstance(of_set, Logs):
                for level in of_set:
                    if level in levels:
                        for names, number in numbers_in(of_set[level], (set_name, level)):
                            if number is not None:
                                numbers[".".join(names)] = number
        for logger in self._trainer.loggers:
            logger.log_metrics(metrics=dict(numbers), step=self._current["global_iter"])
            logger.save()
