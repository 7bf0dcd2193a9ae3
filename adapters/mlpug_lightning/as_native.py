"""mlpug's callbacks in a script that calls Lightning's ``Trainer.fit`` itself."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from mlpug.plain import from_plain, to_plain
from mlpug.trainers.attached import Attached
from mlpug.trainers.default_trainer import DefaultTrainer
from mlpug.trees import map_leaves
from mlpug_lightning.host import check_is_ours, pl
from mlpug_lightning.ported import LOGS, PortedAdapter

_MANY = 2**31  # epochs, where Lightning is told no number


def as_native(*callbacks: Any) -> pl.Callback:
    """One callback for ``Trainer(callbacks=[...])`` that calls mlpug's, in this order, in a run of Lightning's own.

    The run isn't changed by it. The logs have what the module logs: see `DefaultTrainer.from_lightning`. What a module
    logs in its own `on_train_epoch_end` comes too late for the callbacks' hook. Checkpoints are as always; of a
    training checkpoint that was made at an epoch's end, ``from_lightning(module)`` goes on by
    ``start_training(resume_from=path)``. What the callbacks keep is in Lightning's own checkpoints too.

    Args:
        callbacks: mlpug's.

    Raises:
        ConfigurationError: a callback that isn't mlpug's, or that needs what such a run doesn't give: the training
            dataset, or the optimizers before training starts.

    >>> from mlpug.callbacks import LogProgress
    >>> trainer = pl.Trainer(callbacks=[as_native(LogProgress())], accelerator="cpu", logger=False)
    """
    return _Native(Attached(callbacks, _is_native, lacking=("training_dataset", "optimizers"), logs_itself=LOGS))


def _is_native(candidate: Any) -> bool:
    check_is_ours(candidate)
    return isinstance(candidate, pl.Callback)


class _Native(pl.Callback):
    """Hands Lightning's events to the parts that tell mlpug's listeners, one after the other."""

    def __init__(self, attached: Attached) -> None:
        self._attached = attached
        self._parts: list[pl.Callback] = []
        self._at_batch_start: list[Any] = []
        self._at_batch_end: list[Any] = []

    @property
    def state_key(self) -> str:
        """Differs from that of others in the same run."""
        return f"mlpug: {self._attached.name}"

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        adapter = PortedAdapter(trainer, pl_module)
        run = self._attached.start(DefaultTrainer(adapter, None, pl_module, logs_itself=LOGS), _num_epochs(trainer))
        self._parts = adapter.attach(run)
        self._at_batch_start = _overridden(self._parts, "on_train_batch_start")
        self._at_batch_end = _overridden(self._parts, "on_train_batch_end")

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        batches = trainer.fit_loop.epoch_loop.batch_progress
        if batches.total.completed:  # a checkpoint of Lightning's own goes on
            self._attached.count_from(trainer.current_epoch, batches.total.completed, batches.current.completed)
        for part in self._parts:
            part.on_train_start(trainer, pl_module)
        self._attached.restore()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for part in self._parts:
            part.on_train_epoch_start(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        for hook in self._at_batch_start:
            hook(trainer, pl_module, batch, batch_idx)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        for hook in self._at_batch_end:
            hook(trainer, pl_module, outputs, batch, batch_idx)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for part in self._parts:
            part.on_validation_end(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for part in self._parts:
            part.on_train_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for part in self._parts:
            part.on_train_end(trainer, pl_module)
        self._attached.end()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._attached.end(exception)

    def state_dict(self) -> dict[str, Any]:
        """As tensors, which Lightning's checkpoints can be read with again by any setting."""
        return map_leaves(_as_tensor, to_plain(self._attached.get_state()))  # type: ignore[no-any-return]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._attached.set_state(from_plain(map_leaves(_as_array, state_dict)))


def _overridden(parts: list[pl.Callback], hook: str) -> list[Any]:
    return [getattr(part, hook) for part in parts if getattr(type(part), hook) is not getattr(pl.Callback, hook)]


def _num_epochs(trainer: pl.Trainer) -> int:
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        return trainer.max_epochs
    batches, steps = trainer.num_training_batches, trainer.max_steps
    return math.ceil(steps / batches) if steps > 0 and batches not in (0, math.inf) else _MANY


def _as_tensor(leaf: Any) -> Any:
    return torch.from_numpy(leaf) if isinstance(leaf, np.ndarray) else leaf


def _as_array(leaf: Any) -> Any:
    return leaf.numpy() if isinstance(leaf, torch.Tensor) else leaf
