"""Batches as what a compiled function takes: a list of arrays, and everything else apart."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from mlpug.trees import leaves, map_leaves

Join = Callable[[list[Any]], Any]


class _Place:
    """Stands where an array was."""

    def __repr__(self) -> str:
        return "·"


_PLACE = _Place()


def split(batch: Any, settings: Any) -> tuple[list[Any], Any]:
    """The arrays of a batch and its settings, and a template of both with places in their stead.

    Arrays, the numbers of a batch and the floats of the settings are computed with: a change of them needs no new
    compilation. All else (text, flags, whole numbers in the settings, ...) belongs to the template.

    >>> split((np.zeros(2), 3), {"temperature": 0.5, "mode": "fast"})[1]
    ((·, ·), {'temperature': ·, 'mode': 'fast'})
    """
    arrays: list[Any] = []

    def take_from_batch(leaf: Any) -> Any:
        if hasattr(leaf, "shape"):
            arrays.append(leaf)
            return _PLACE
        if type(leaf) in (int, float):
            arrays.append(np.asarray(leaf))
            return _PLACE
        return leaf

    def take_from_settings(leaf: Any) -> Any:
        if hasattr(leaf, "shape") or type(leaf) is float:
            arrays.append(leaf if hasattr(leaf, "shape") else np.asarray(leaf, "float32"))
            return _PLACE
        return leaf

    return arrays, (map_leaves(take_from_batch, batch), map_leaves(take_from_settings, settings))


def joined(template: Any, arrays: list[Any]) -> Any:
    """The template with the arrays in their places."""
    remaining = iter(arrays)
    return map_leaves(lambda leaf: next(remaining) if leaf is _PLACE else leaf, template)


class Compiled:
    """A function of (batch, settings), compiled once for each template of theirs.

    Args:
        make: ``make(join, arrays)`` returns the compiled function of such arrays, of which ``join(arrays)`` makes the
            batch and its settings again.
    """

    def __init__(self, make: Callable[[Join, list[Any]], Callable[..., Any]]) -> None:
        self._make = make
        # The template is kept too: its text may hold the address of an object, which must not be given to another.
        self._functions: dict[str, tuple[Callable[..., Any], Any]] = {}

    def of(self, batch: Any, settings: Any) -> tuple[Callable[..., Any], list[Any]]:
        """The compiled function, and the arrays to call it with."""
        arrays, template = split(batch, settings)
        key = repr(template)
        if key not in self._functions:
            self._functions[key] = self._make(partial(joined, template), arrays), template
        return self._functions[key][0], arrays


def to_native(batch: Any, is_native: Callable[[Any], bool]) -> Any:
    """The same nesting with the arrays of other libraries as numpy arrays; every backend takes those."""

    def convert(leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray) or is_native(leaf) or not hasattr(leaf, "__array__"):
            return leaf
        return np.asarray(leaf.detach().cpu() if hasattr(leaf, "detach") else leaf)

    return map_leaves(convert, batch)


def to_host(tree: Any, is_native: Callable[[Any], bool], read: Callable[[list[Any]], list[Any]]) -> Any:
    """The same nesting with numpy arrays, and numbers for those without an axis.

    `read` gets all arrays of the backend at once, and gives their values on the host.
    """
    arrays = iter(read([leaf for leaf in leaves(tree) if is_native(leaf)]))
    return map_leaves(lambda leaf: _plain(next(arrays) if is_native(leaf) else leaf), tree)


def _plain(leaf: Any) -> Any:
    if not isinstance(leaf, (np.ndarray, np.generic)):
        return leaf
    if leaf.ndim == 0:
        return leaf.item()
    # numpy has no bfloat16 of its own; every one is a float32
    return leaf.astype("float32") if leaf.dtype.kind == "V" else leaf
