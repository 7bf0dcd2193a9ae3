"""Keeps what a LightningModule has logged as it was before a step: an error in the step may leave half of it."""

from __future__ import annotations

from typing import Any

import torch
import torchmetrics

_OF_ITEMS = ("value", "cumulated_batch_size", "_forward_cache", "_update_count", "_computed", "has_reset")


class KeptLogs:
    """What is summed up for the epoch, and what metric objects have seen in it.

    Args:
        trainer: Lightning's.
        module: the user's.
    """

    def __init__(self, trainer: Any, module: torch.nn.Module) -> None:
        self._trainer = trainer
        self._metrics = [part for part in module.modules() if isinstance(part, torchmetrics.Metric)]
        self._items: dict[str, tuple[Any, tuple[Any, ...]]] = {}
        self._states: list[tuple[dict[str, Any], int]] = []

    def keep(self) -> None:
        """Before a step. Results are replaced and never changed, and aren't copied; metrics may add in place."""
        results = self._trainer.fit_loop.epoch_loop._results
        self._items = {
            key: (item, tuple(getattr(item, name, None) for name in _OF_ITEMS)) for key, item in results.items()
        }
        self._states = [
            ({name: _copy(getattr(metric, name)) for name in metric._defaults}, metric._update_count)
            for metric in self._metrics
        ]

    def put_back(self) -> None:
        """After an error in the step."""
        results = self._trainer.fit_loop.epoch_loop._results
        for key in [key for key in results if key not in self._items]:
            del results[key]
        for item, values in self._items.values():
            for name, value in zip(_OF_ITEMS, values, strict=True):
                if hasattr(item, name):
                    setattr(item, name, value)
        for metric, (state, count) in zip(self._metrics, self._states, strict=True):
            for name, value in state.items():
                if isinstance(value, int):
                    del getattr(metric, name)[value:]
                else:
                    setattr(metric, name, value)
            metric._update_count, metric._computed = count, None


def _copy(value: Any) -> Any:
    """Of a list its length: it only grows."""
    return len(value) if isinstance(value, list) else value.clone()
