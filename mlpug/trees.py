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
    if is_container(tree):
        return with_children(tree, [map_leaves(function, child) for child in children(tree)])
    return function(tree)


def leaves(tree: Any) -> Iterator[Any]:
    """Everything in the tree that isn't a dict, list, tuple or dataclass, in order.

    >>> list(leaves({"a": [1, (2, 3)]}))
    [1, 2, 3]
    """
    if type(tree) in _LEAF_TYPES or hasattr(tree, "shape"):
        yield tree
    elif is_container(tree):
        for child in children(tree):
            yield from leaves(child)
    else:
        yield tree


def is_container(tree: Any) -> bool:
    """Whether it is a dict, list, tuple or dataclass.

    >>> is_container({}), is_container("text")
    (True, False)
    """
    return isinstance(tree, (list, tuple, Mapping)) or (dataclasses.is_dataclass(tree) and not isinstance(tree, type))


def children(tree: Any) -> list[Any]:
    """What a dict, list, tuple or dataclass holds, in order; nothing for anything else.

    >>> children({"a": 1, "b": (2, 3)}), children(1)
    ([1, (2, 3)], [])
    """
    if type(tree) in _LEAF_TYPES or hasattr(tree, "shape"):
        return []
    if isinstance(tree, (list, tuple)):
        return list(tree)
    if isinstance(tree, Mapping):
        return list(tree.values())
    if is_container(tree):
        return [getattr(tree, field.name) for field in dataclasses.fields(tree)]
    return []


def with_children(tree: Any, values: list[Any]) -> Any:
    """The same kind of dict, list, tuple or dataclass, with other values.

    >>> with_children({"a": 1, "b": 2}, [3, 4])
    {'a': 3, 'b': 4}
    """
    if isinstance(tree, tuple):
        return type(tree)(*values) if hasattr(tree, "_fields") else type(tree)(values)
    changed: Any = copy.copy(tree)  # of its own kind, with whatever else it holds
    if isinstance(tree, (Mapping, list)):
        for key, value in zip(tree if isinstance(tree, Mapping) else range(len(tree)), values, strict=True):
            changed[key] = value
        return changed
    for field, value in zip(dataclasses.fields(tree), values, strict=True):
        object.__setattr__(changed, field.name, value)  # also for frozen ones and for fields that __init__ doesn't take
    return changed


def num_samples_in(batch: Any) -> int | None:
    """Length of the first axis of the batch's first array; None where the batch has no array with an axis.

    >>> import numpy as np
    >>> num_samples_in({"images": np.zeros((32, 8, 8)), "labels": np.zeros(32)})
    32
    >>> num_samples_in("no arrays here") is None
    True
    """
    first = batch[0] if type(batch) in (tuple, list) and batch else batch
    shape = getattr(first, "shape", None)
    if shape is not None and len(shape) > 0:  # as in most batches, which are asked this each time
        length_of_first: int = shape[0]
        return length_of_first
    for leaf in leaves(batch):
        shape = getattr(leaf, "shape", None)
        if shape is not None and len(shape) > 0:
            length: int | None = shape[0]
            return length
    return None
