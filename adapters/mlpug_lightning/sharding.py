"""Strategies and optimizers whose state is shared between processes: no process has the whole of it."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from mlpug_lightning.host import pl

_CURE = "Leave CheckpointManager out and let Lightning's ModelCheckpoint save, or train with strategy='ddp'"


def no_checkpoints(trainer: pl.Trainer, optimizers: Iterable[Any] = ()) -> str | None:
    """Why there can be none of mlpug's, as `mlpug.trainers.DefaultTrainer` takes it; None where they can be made.

    Args:
        trainer: Lightning's.
        optimizers: that are known by now.

    >>> no_checkpoints(pl.Trainer(accelerator="cpu", logger=False)) is None
    True
    """
    kinds = pl.strategies
    strategy = trainer.strategy
    if isinstance(strategy, (kinds.DeepSpeedStrategy, kinds.FSDPStrategy, kinds.ModelParallelStrategy)):
        return (
            f"{type(strategy).__name__} shares weights and optimizer states between the processes, and a checkpoint of "
            f"mlpug would have one part of them, from which nothing can go on. {_CURE}."
        )
    if any(_is_sharded(optimizer) for optimizer in optimizers):
        return (
            "ZeroRedundancyOptimizer shares its state between the processes, and a checkpoint of mlpug would have one "
            f"part of it, from which nothing can go on. {_CURE} and another optimizer."
        )
    return None


def _is_sharded(optimizer: Any) -> bool:
    # Whoever has one has its module loaded; to load it here takes time, and torch warns of it.
    module = sys.modules.get("torch.distributed.optim.zero_redundancy_optimizer")
    return module is not None and isinstance(optimizer, module.ZeroRedundancyOptimizer)
