"""Metrics that take batch after batch in constant memory, of any library."""

from __future__ import annotations

import copy
import sys
from typing import Any, Protocol, runtime_checkable

import numpy as np

from mlpug.trees import leaves, map_leaves


@runtime_checkable
class StreamingMetric(Protocol):
    """A metric that takes batch after batch in constant memory. Every torchmetrics metric is one.

    Keras's metrics, with ``update_state``, ``result`` and ``reset_state``, are taken as well.
    """

    def update(self, *inputs: Any, **named_inputs: Any) -> Any:
        """Take the inputs of one batch."""

    def compute(self) -> Any:
        """The value over everything taken since the last reset."""

    def reset(self) -> Any:
        """Forget everything."""


def is_streaming(metric: Any) -> bool:
    """Whether batches can stream through the object: torchmetrics' way, or Keras's.

    >>> is_streaming(max)
    False
    """
    return isinstance(metric, StreamingMetric) or all(
        hasattr(metric, name) for name in ("update_state", "result", "reset_state")
    )


class Stream:
    """Streams through a copy of the user's metric, so that several evaluations don't disturb each other.

    A metric of torch or Keras gets arrays of other libraries as it understands them; any other metric gets its inputs
    as they were picked, still on their device.
    """

    def __init__(self, metric: Any) -> None:
        self._metric = copy.deepcopy(metric)
        is_keras = hasattr(metric, "update_state")
        names = ("update_state", "result", "reset_state") if is_keras else ("update", "compute", "reset")
        self._update, self._compute, reset = (getattr(self._metric, name) for name in names)
        self._understood = _as_numpy if is_keras else _as_torch if _is_torch_module(metric) else None
        reset()

    def add(self, picked: Any) -> None:
        """Take the inputs of one batch: a tuple as positional arguments, a dict as named ones."""
        if self._understood is not None:
            picked = map_leaves(self._understood, picked)
        _follow_device(self._metric, picked)
        if isinstance(picked, dict):
            self._update(**picked)
        elif isinstance(picked, tuple):
            self._update(*picked)
        else:
            self._update(picked)

    def value(self) -> Any:
        """The metric over everything taken."""
        return as_plain(self._compute())


def as_plain(value: Any) -> Any:
    """Scalars of any library as Python numbers, also inside dicts, lists and tuples; the rest as it is.

    >>> as_plain({"accuracy": np.float32(0.5), "counts": np.array([1, 2])})
    {'accuracy': 0.5, 'counts': array([1, 2])}
    """
    if isinstance(value, dict):
        return {name: as_plain(item) for name, item in value.items()}
    if type(value) is tuple or type(value) is list:
        return type(value)(as_plain(item) for item in value)
    if getattr(value, "shape", None) == ():
        return value.item() if hasattr(value, "item") else value.numpy().item()
    return value


def _is_torch_module(metric: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(metric, torch.nn.Module)


def _as_torch(leaf: Any) -> Any:
    torch = sys.modules["torch"]
    if isinstance(leaf, torch.Tensor) or not hasattr(leaf, "__array__"):
        return leaf
    return torch.from_numpy(np.array(leaf))  # a copy: a tensor may write to its memory


def _as_numpy(leaf: Any) -> Any:
    return leaf.detach().cpu().numpy() if hasattr(leaf, "detach") else leaf


def _follow_device(metric: Any, picked: Any) -> None:
    """Move a metric that lives on a device, as torchmetrics' do, to where its inputs are."""
    if hasattr(metric, "to") and hasattr(metric, "device"):
        for leaf in leaves(picked):
            if hasattr(leaf, "device"):
                if metric.device != leaf.device:
                    metric.to(leaf.device)
                return
