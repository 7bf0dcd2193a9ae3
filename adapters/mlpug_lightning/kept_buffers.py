"""Keeps a module's buffers as they were before a step."""

from __future__ import annotations

from typing import Any

import torch


class KeptBuffers:
    """A copy of all buffers, such as BatchNorm's statistics: a forward pass changes them before anything is known.

    Their number and shapes may change from step to step; those that a step adds stay.

    >>> norm = torch.nn.BatchNorm1d(2)
    >>> kept = KeptBuffers(norm)
    >>> kept.keep()
    >>> _ = norm(torch.full((3, 2), torch.nan))
    >>> kept.put_back()
    >>> norm.running_mean
    tensor([0., 0.])
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self._holders: list[dict[str, Any]] = [part._buffers for part in module.modules() if part._buffers]
        self._names: list[tuple[dict[str, Any], str]] = []  # where each of `_originals` was
        self._originals: list[torch.Tensor] = []
        self._copies: list[torch.Tensor] = []

    @torch.no_grad()
    def keep(self) -> None:
        """Copy them, into the memory of the last copies where that fits."""
        if not self._holders:
            return
        names = [(holder, name) for holder in self._holders for name, buffer in holder.items() if _has_values(buffer)]
        originals = [holder[name] for holder, name in names]
        copies = self._copies
        if len(copies) != len(originals) or not all(map(_are_alike, copies, originals)):
            self._copies = [original.clone() for original in originals]
        elif copies:
            torch._foreach_copy_(copies, originals)
        self._names, self._originals = names, originals

    @torch.no_grad()
    def put_back(self) -> None:
        """Make all buffers what they were: the same tensors, with the same values."""
        if self._originals:
            torch._foreach_copy_(self._originals, self._copies)
        for (holder, name), original in zip(self._names, self._originals, strict=True):
            holder[name] = original


def _has_values(buffer: Any) -> bool:
    return buffer is not None and not torch.nn.parameter.is_lazy(buffer)


def _are_alike(copy: torch.Tensor, original: torch.Tensor) -> bool:
    return copy.shape == original.shape and copy.dtype == original.dtype and copy.device == original.device
