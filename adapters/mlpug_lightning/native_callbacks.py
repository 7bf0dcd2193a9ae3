"""Lightning's own callbacks in mlpug's list: which can't work, and what they can monitor."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch

from mlpug.callbacks.native_names import NativeLogs
from mlpug.errors import ConfigurationError, MlpugWarning
from mlpug.logs import Logs
from mlpug_lightning.averaged_weights import is_averaging
from mlpug_lightning.host import pl

_PORT = "let Lightning optimize: bring the LightningModule to DefaultTrainer.from_lightning(module)"


def check_counting(callback: pl.Callback, may_accumulate: bool = False) -> None:
    """Refuse a callback of Lightning that trains for trial, or that says when an update comes where we do."""
    callbacks = pl.callbacks
    name = type(callback).__name__
    if isinstance(callback, callbacks.GradientAccumulationScheduler) and not may_accumulate:
        raise ConfigurationError(
            f"{name} would say how many batches make one update, and here a batch is an update. Give the trainer "
            "gradient_accumulation_steps=..., which is the same in every epoch."
        )
    if isinstance(callback, (callbacks.BatchSizeFinder, callbacks.LearningRateFinder)):
        raise ConfigurationError(
            f"{name} trains for trial before training, which every callback would take for training itself. Find the "
            "value in a Trainer of its own."
        )


def check_native(callback: pl.Callback) -> None:
    """Refuse a callback of Lightning that can't do here what it is for."""
    check_counting(callback)
    callbacks = pl.callbacks
    name = type(callback).__name__
    if isinstance(callback, callbacks.BaseFinetuning):
        raise ConfigurationError(
            f"{name} gives the optimizer other parameters while it trains, and mlpug's optimizers are those that they "
            f"were when training began. Freeze layers by requires_grad before that; or {_PORT}."
        )
    after_validation = isinstance(callback, callbacks.EarlyStopping) and callback._check_on_train_epoch_end is False
    if after_validation or getattr(callback, "_save_on_train_epoch_end", None) is False:
        which = "check_on_train_epoch_end" if after_validation else "save_on_train_epoch_end"
        raise ConfigurationError(
            f"{name} with {which}=False waits for Lightning's validation, and here mlpug's callbacks evaluate: leave "
            f"{which} out, and put it behind the callback that writes its metric."
        )


def monitored_besides(callbacks: Sequence[pl.Callback]) -> set[str] | None:
    """What these can monitor beside mlpug's metrics; None where one of them may log anything."""
    if any(_is_of_the_user(callback) for callback in callbacks):
        return None
    return {"epoch", "step"}  # which ModelCheckpoint adds


def check_averaging(callbacks: Sequence[Any], module: torch.nn.Module) -> None:
    """Refuse `StochasticWeightAveraging` where it needs more than a copy of the weights and a scheduler."""
    has_normalization = any(isinstance(part, torch.nn.modules.batchnorm._BatchNorm) for part in module.modules())
    averages = any(isinstance(callback, pl.callbacks.StochasticWeightAveraging) for callback in callbacks)
    if averages and has_normalization:
        raise ConfigurationError(
            "StochasticWeightAveraging adds an epoch without updates for the statistics of batch normalization, and "
            f"here every batch is an update. Use another normalization; or {_PORT}."
        )


def check_resumable(callbacks: Sequence[Any]) -> None:
    """Refuse to resume a run with callbacks that wouldn't go on where they were."""
    names = not_resumable(callbacks)
    if names:
        raise ConfigurationError(
            f"A run with {', '.join(names)} can't be resumed: part of what they remember isn't in their state_dict(). "
            "Start from the beginning, or leave them out."
        )


def warn_if_not_resumable(callbacks: Sequence[Any]) -> bool:
    """Say so when a training checkpoint is written; whether there was anything to say."""
    names = not_resumable(callbacks)
    if names:
        warnings.warn(
            f"A training checkpoint is written of a run with {', '.join(names)}, from which it can't be resumed: "
            "part of what they remember isn't in their state_dict(). The weights in it can be used.",
            MlpugWarning,
            stacklevel=2,
        )
    return bool(names)


def not_resumable(callbacks: Sequence[Any]) -> list[str]:
    """Of those that don't go on where they were: they make schedulers anew, or use Lightning's own checkpoints."""
    return [
        type(callback).__name__
        for callback in callbacks
        if isinstance(callback, pl.callbacks.StochasticWeightAveraging)
        or (
            isinstance(callback, pl.Callback)
            and not is_averaging(callback)
            and type(callback).on_save_checkpoint is not pl.Callback.on_save_checkpoint
        )
    ]


def show_metrics(trainer: pl.Trainer, logs: Logs, shows_own_only: bool = False) -> None:
    """Let callbacks find mlpug's metrics in Lightning's ``callback_metrics``, as tensors.

    Args:
        trainer: Lightning's.
        logs: of the run.
        shows_own_only: whether iterating gives what Lightning itself has put there, and nothing else.
    """
    connector: Any = trainer._logger_connector
    connector._callback_metrics = NativeLogs(
        connector._callback_metrics, logs=logs, convert=torch.tensor, shows_own_only=shows_own_only
    )


def hide_metrics(trainer: pl.Trainer) -> None:
    """Leave in ``callback_metrics`` what Lightning itself has put there, in a dict like any other."""
    connector: Any = trainer._logger_connector
    if isinstance(connector._callback_metrics, NativeLogs):
        connector._callback_metrics = dict(dict.items(connector._callback_metrics))


class AfterRun(list[Any]):
    """The callbacks of a Lightning `Trainer` after a run: also those of the run's own list, as after its own ``fit``.

    Args:
        callbacks: all of them.
        before: those that were there before it.

    >>> before, brought = pl.Callback(), pl.Callback()
    >>> AfterRun([before, brought], [before]).of_trainer() == [before]
    True
    """

    def __init__(self, callbacks: Sequence[Any], before: Sequence[Any]) -> None:
        super().__init__(callbacks)
        self._brought = [callback for callback in callbacks if not any(callback is other for other in before)]

    def of_trainer(self) -> list[Any]:
        """Those that the next run finds: without what the run brought."""
        return [callback for callback in self if not any(callback is other for other in self._brought)]


def _is_of_the_user(callback: pl.Callback) -> bool:
    """Whether the user's own code runs in it, which may log anything."""
    is_lightnings = type(callback).__module__.startswith(f"{pl.__name__}.")
    return not is_lightnings or isinstance(callback, pl.callbacks.LambdaCallback)
