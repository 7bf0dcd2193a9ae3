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
from mlpug_lightning.parts import Parts
from mlpug_lightning.ported import LOGS, PortedAdapter
from mlpug_lightning.sharding import no_checkpoints

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


class _Native(Parts):
    """Hands Lightning's events to what tells mlpug's listeners."""

    is_of_mlpug = False

    def __init__(self, attached: Attached) -> None:
        super().__init__([])
        self._attached = attached
        self.key = f"mlpug: {attached.name}"

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        adapter = PortedAdapter(trainer, pl_module)
        reason = no_checkpoints(trainer, trainer.optimizers)
        wrapped = DefaultTrainer(adapter, None, pl_module, logs_itself=LOGS, no_checkpoints=reason)
        self.take(adapter.attach(self._attached.start(wrapped, _num_epochs(trainer))))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        batches = trainer.fit_loop.epoch_loop.batch_progress
        if batches.total.completed:  # a checkpoint of Lightning's own goes on
            self._attached.count_from(trainer.current_epoch, batches.total.completed, batches.current.completed)
        super().on_train_start(trainer, pl_module)
        self._attached.restore()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_end(trainer, pl_module)
        self._attached.end()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._attached.end(exception)

    def __reduce__(self) -> Any:
        """A copy, as of a Trainer that is pickled, belongs to no run, and hears of the next one."""
        return _Native, (self._attached,)

    def state_dict(self) -> dict[str, Any]:
        """As tensors, which Lightning's checkpoints can be read with again by any setting."""
        return map_leaves(_as_tensor, to_plain(self._attached.get_state()))  # type: ignore[no-any-return]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._attached.set_state(from_plain(map_leaves(_as_array, state_dict)))


def _num_epochs(trainer: pl.Trainer) -> int:
    if trainer.max_epochs is not None and trainer.max_epochs > 0:
        return trainer.max_epochs
    batches, steps = trainer.num_training_batches, trainer.max_steps
    return math.ceil(steps / batches) if steps > 0 and batches not in (0, math.inf) else _MANY


def _as_tensor(leaf: Any) -> Any:
    return torch.from_numpy(leaf) if isinstance(leaf, np.ndarray) else leaf


def _as_array(leaf: Any) -> Any:
    return leaf.numpy() if isinstance(leaf, torch.Tensor) else leaf
