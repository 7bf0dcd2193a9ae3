"""Hands Lightning's events to mlpug's listeners."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from mlpug.adapter import Events, Run
from mlpug.stop_iteration import EscapedStopIterationError
from mlpug_lightning.host import pl, without_unused_hooks
from mlpug_lightning.native_callbacks import show_metrics

if TYPE_CHECKING:
    from mlpug_lightning.module import Latest


@without_unused_hooks
class Bridge(pl.Callback):
    """A native callback for listeners that stand next to each other in the list.

    Args:
        listeners: mlpug's.
        latest: what the latest step did.
    """

    def __init__(self, listeners: Sequence[Events], latest: Latest) -> None:
        self._listeners = listeners
        self._latest = latest

    @property
    def state_key(self) -> str:
        """Differs between bridges."""
        return f"mlpug-{id(self)}"

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        num_batches = trainer.num_training_batches
        tell(self._listeners, "training_started", None if math.isinf(num_batches) else int(num_batches))

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        tell(self._listeners, "epoch_started")

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        try:
            for listener in self._listeners:
                listener.batch_started(batch)
        except StopIteration as error:
            raise EscapedStopIterationError(error) from error

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        latest: Any = self._latest
        if is_left_out(batch, latest):
            tell(self._listeners, "batch_left_out")
            return
        try:
            for listener in self._listeners:
                listener.batch_ended(batch, latest.step_output, latest.did_update)
        except StopIteration as error:
            raise EscapedStopIterationError(error) from error

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        tell(self._listeners, "epoch_ended", not self._latest.is_cut_short)


class LateBridge(Bridge, pl.callbacks.Checkpoint):
    """For listeners that stand behind a callback that monitors, and for the last ones.

    Lightning tells those that monitor of an epoch's end after all others, and knows them by their class.
    """


class LastBridge(LateBridge):
    """When its listeners have heard of the end of an epoch, everybody has.

    Args:
        listeners: mlpug's.
        latest: what the latest step did.
        on_epoch_told: called then.
        on_started: called when all others have heard that training starts.
    """

    def __init__(
        self,
        listeners: Sequence[Events],
        latest: Latest,
        on_epoch_told: Callable[[], None],
        on_started: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(listeners, latest)
        self._on_epoch_told = on_epoch_told
        self._on_started = on_started

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._on_started()
        super().on_train_start(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        self._on_epoch_told()


@without_unused_hooks
class First(pl.Callback):
    """Always the first of all callbacks: it shows them the metrics, and tells the end of training before any hears."""

    def __init__(self, run: Run) -> None:
        self._listeners = [listener for listener in run.listeners if not isinstance(listener, pl.Callback)]
        self._logs = run.logs

    def on_fit_start(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        if not all(is_ours(callback) for callback in trainer.callbacks):
            show_metrics(trainer, self._logs)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        tell(self._listeners, "training_ended")


@without_unused_hooks
class Restoring(pl.Callback):
    """Always the last of all callbacks: it restores the others when each has set itself up, as Lightning does."""

    def __init__(self, restore: Callable[[], None]) -> None:
        self.restore = restore

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self.restore()


def as_native_callbacks(listeners: Sequence[Any], latest: Latest, kind: type[Bridge] = Bridge) -> list[pl.Callback]:
    """Listeners as Lightning's callbacks, in the same order.

    Args:
        listeners: mlpug's and native ones.
        latest: what the latest step did.
        kind: `LateBridge` where mlpug's are to hear of an epoch's end after the module's own hook.
    """
    callbacks: list[pl.Callback] = []
    for is_native, group in groupby(listeners, key=lambda listener: isinstance(listener, pl.Callback)):
        neighbours = list(group)
        callbacks += neighbours if is_native else [kind(neighbours, latest)]
        if any(isinstance(callback, (pl.callbacks.EarlyStopping, pl.callbacks.Checkpoint)) for callback in callbacks):
            kind = LateBridge
    return callbacks


def tell_start_and_end(
    listeners: Sequence[Any],
    num_batches_per_epoch: int | None,
    restoring: Sequence[Restoring],
    on_started: Callable[[], None] = lambda: None,
) -> None:
    """The events of a run in which there is nothing to do; `on_started` before the last listener hears of its start."""
    for callback in restoring:
        callback.restore()
    ours = [listener for listener in listeners if not isinstance(listener, pl.Callback)]
    tell(ours[:-1], "training_started", num_batches_per_epoch)
    on_started()
    tell(ours[-1:], "training_started", num_batches_per_epoch)
    tell(ours, "training_ended")


def is_left_out(batch: Any, latest: Latest) -> bool:
    """Whether the data gave None in the place of the batch that ended, and Lightning has done nothing."""
    return batch is None and latest.step_output is None


def is_ours(callback: pl.Callback) -> bool:
    """Whether it is none of the user's."""
    return isinstance(callback, (Bridge, First, Restoring)) or getattr(callback, "is_of_mlpug", False)


def tell(listeners: Sequence[Any], event: str, *arguments: Any) -> None:
    try:
        for listener in listeners:
            getattr(listener, event)(*arguments)
    except StopIteration as error:
        raise EscapedStopIterationError(error) from error
