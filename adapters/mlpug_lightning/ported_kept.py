"""Keeps what a LightningModule has logged as it was before a step: an error in the step may leave half of it."""

from __future__ import annotations

from typing import Any

import torch

from mlpug_lightning.ported_metrics import KeptMetrics

_OF_ITEMS = ("value", "cumulated_batch_size", "_forward_cache", "_update_count", "_computed", "has_reset")


class KeptLogs:
    """What is summed up for the epoch, and what metric objects have seen in it.

    Args:
        trainer: Lightning's.
        module: the user's.
        copies_lists: of metrics, which may become shorter.
    """

    def __init__(self, trainer: Any, module: torch.nn.Module, copies_lists: bool = False) -> None:
        self._trainer = trainer
        self._metrics = KeptMetrics(module, copies_lists)
        self._items: dict[str, tuple[Any, tuple[Any, ...]]] = {}

    def keep(self) -> None:
        """Before a step. Results are replaced and never changed, and aren't copied."""
        results = self._trainer.fit_loop.epoch_loop._results
        self._items = {
            key: (item, tuple(getattr(item, name, None) for name in _OF_ITEMS)) for key, item in results.items()
        }
        self._metrics.keep()

    def put_back(self) -> None:
        """After an error in the step."""
        results = self._trainer.fit_loop.epoch_loop._results
        for key in [key for key in results if key not in self._items]:
            del results[key]
        for item, values in self._items.values():
            for name, value in zip(_OF_ITEMS, values, strict=True):
                if hasattr(item, name):
                    setattr(item, name, value)
        self._metrics.put_back()
