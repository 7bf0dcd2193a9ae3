"""What every adapter has of the Lightning `Trainer` that it trains with."""

from __future__ import annotations

from typing import Any

import torch

from mlpug.adapter import Process
from mlpug_lightning.batches import to_host
from mlpug_lightning.host import pl


class OnLightning:
    """The base of the adapters.

    Args:
        trainer: runs the loop.
    """

    backend = "pytorch"

    def __init__(self, trainer: pl.Trainer) -> None:
        self._trainer = trainer

    @property
    def process(self) -> Process:
        """This process among those of Lightning's strategy."""
        return Process(rank=self._trainer.global_rank, world_size=self._trainer.world_size)

    def to_host(self, tree: Any) -> Any:
        """Tensors as numpy arrays and numbers."""
        return to_host(tree)

    def gather(self, tree: Any) -> list[Any]:
        """What each process of Lightning's strategy gives."""
        if self.process.world_size == 1:
            return [tree]
        gathered: list[Any] = [None] * self.process.world_size
        torch.distributed.all_gather_object(gathered, tree)
        return gathered
