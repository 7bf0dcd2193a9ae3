"""Batches and results as trees: any nesting of dicts, lists, tuples and dataclasses around arrays."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

# Known without asking: finding out that a number is no Mapping takes longer than anything else here.
_LEAF_TYPES = (float, int, bool, str, type(None))


def map_leaves(function: Callable[[Any], Any], tree: Any) -> Any:
    """The same nesting with `function` applied to everything that isn't a dict, list, tuple or dataclass.

    >>> map_leaves(lambda leaf: leaf + 1, {"a": [1, (2, 3)]})
    {'a': [2, (3, 4)]}
    """
    kind = type(tree)
    if kind is tuple or kind is list:
        return kind([map_leaves(function, item) for item in tree])
    if kind is dict:
        return {key: map_leaves(function, item) for key, item in tree.items()}
    if kind in _LEAF_TYPES or hasattr(tree, "shape"):
        return function(tree)
    if isinstance(tree, (Mapping, list)):
        mapped: Any = copy.copy(tree)  # of its own kind, with whatever else it holds
        for key in tree if isinstance(tree, Mapping) else range(len(tree)):
            mapped[key] = map_leaves(function, tree[key])
        return mapped
    if isinstance(tree, tuple):
        items = [map_leaves(function, item) for item in tree]
        return kind(*items) if hasattr(tree, "_fields") else kind(items)
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        mapped = copy.copy(tree)
        for field in dataclasses.fields(tree):
            # also for frozen dataclasses and for fields that __init__ doesn't take
            object.__setattr__(mapped, field.name, map_leaves(function, getattr(tree, field.name)))
        return mapped
    return function(tree)


def leaves(tree: Any) -> Iterator[Any]:
    """Everything in the tree that isn't a dict, list, tuple or dataclass, in order.

    >>> list(leaves({"a": [1, (2, 3)]}))
    [1, 2, 3]
    """
    if type(tree) in _LEAF_TYPES or hasattr(tree, "shape"):
        yield tree
    elif isinstance(tree, (list, tuple)):
        for item in tree:
            yield from leaves(item)
    elif isinstance(tree, Mapping):
        for item in tree.values():
            yield from leaves(item)
    elif dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        for field in dataclasses.fields(tree):
            yield from leaves(getattr(tree, field.name))
    else:
        yield tree


def num_samples_in(batch: Any) -> int | None:
    """Length of the first axis of the batch's first array; None where the batch has no array with an axis.

    >>> import numpy as np
    >>> num_samples_in({"images": np.zeros((32, 8, 8)), "labels": np.zeros(32)})
    32
    >>> num_samples_in("no arrays here") is None
    True
    """
    for leaf in leaves(batch):
        shape = getattr(leaf, "shape", None)
        if shape is not None and len(shape) > 0:
            length: int | None = shape[0]
            return length
    return None
