"""Several batches as one: what the dataset would have given with all of their samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mlpug.trees import children, is_container, leaves, with_children

Concatenate = Callable[[list[Any]], Any]


def joined_batches(batches: Sequence[Any], concatenate: Concatenate) -> Any:
    """Batches of one kind as one: whatever has one item a sample has all of them, of any type and length.

    Args:
        batches: at least one.
        concatenate: of arrays that are alike but for their first axis; see `joined`.

    >>> joined_batches([(np.ones((2, 3)), ["a", "b"]), (np.ones((1, 3)), ["c"])], np.concatenate)[1]
    ['a', 'b', 'c']
    """
    first = batches[0]
    if all(map(_is_list_of_samples, batches)):
        return type(first)([sample for batch in batches for sample in batch])
    counts = [_num_samples(batch) for batch in batches]
    parts = list(map(children, batches))
    if None in counts or not parts[0] or len(set(map(len, parts))) > 1:
        return joined(batches, concatenate)
    return with_children(first, [joined(part, concatenate, counts=counts) for part in zip(*parts, strict=True)])  # type: ignore[arg-type]


def joined(
    trees: Sequence[Any],
    concatenate: Concatenate,
    numbers: Callable[[list[Any]], Any] | None = None,
    counts: Sequence[int] | None = None,
) -> Any:
    """Trees of one kind as one: arrays along axis 0, lists without arrays or of other lengths one after the other.

    Args:
        trees: at least one; dicts have the same keys.
        concatenate: of arrays that are alike but for their first axis. Where they aren't, there is a list of them.
        numbers: makes one of numbers and scalar arrays; None: as with all other leaves, what is the same in all of
            them stays, and else there is a list.
        counts: how many samples each has, where that is known: a list or tuple of so many items has one for each.

    >>> joined([{"x": np.array([1, 2]), "mode": "a"}, {"x": np.array([3]), "mode": "a"}], np.concatenate)
    {'x': array([1, 2, 3]), 'mode': 'a'}
    """
    first = trees[0]
    if len(trees) == 1:
        return first
    if isinstance(first, (list, tuple)) and not hasattr(first, "_fields"):
        has_arrays = any(hasattr(leaf, "shape") for leaf in leaves(first))
        is_list = isinstance(first, list) and not has_arrays
        if is_list or len({len(tree) for tree in trees}) > 1 or _has_an_item_each(trees, counts):
            return type(first)([item for tree in trees for item in tree])
    parts = list(zip(*map(children, trees), strict=True))
    if parts:
        return with_children(first, [joined(list(part), concatenate, numbers, counts) for part in parts])
    if any(_has_axis(tree) for tree in trees):
        return _joined_arrays(list(trees), concatenate)
    is_number = hasattr(first, "shape") or type(first) in (int, float)
    if numbers is not None and is_number:
        return numbers(list(trees))
    if hasattr(first, "shape"):
        return list(trees)
    return first if all(tree is first or tree == first for tree in trees) else list(trees)


def _joined_arrays(arrays: list[Any], concatenate: Concatenate) -> Any:
    is_alike = len({tuple(array.shape[1:]) if _has_axis(array) else None for array in arrays}) == 1
    if not is_alike:
        return arrays
    is_numpy = all(isinstance(array, np.ndarray) for array in arrays)  # texts and objects, which tensors can't hold
    return np.concatenate(arrays) if is_numpy else concatenate(arrays)


def _has_an_item_each(trees: Sequence[Any], counts: Sequence[int] | None) -> bool:
    """Whether these lists or tuples have one item for each sample, rather than arrays that have a row for each."""
    if counts is None or any(len(tree) != count for tree, count in zip(trees, counts, strict=True)):
        return False
    pairs = list(zip(trees, counts, strict=True))
    rows = [(item, count) for tree, count in pairs for item in tree if _has_axis(item)]
    if not rows:
        rows = [(leaf, count) for tree, count in pairs for leaf in leaves(tree) if _has_axis(leaf)]
    return not rows or any(array.shape[0] != count for array, count in rows)


def _num_samples(batch: Any) -> int | None:
    """How many samples a batch has: rows of its arrays, or items of its lists; None where nothing says it."""
    parts = children(batch)
    of_parts = {part.shape[0] for part in parts if _has_axis(part)}
    lists = [part for part in parts if isinstance(part, (list, tuple))]
    of_lists = {len(part) for part in lists}
    of_texts = {len(part) for part in lists if not any(hasattr(item, "shape") or is_container(item) for item in part)}
    for found in (of_parts, of_texts, _rows(batch), of_lists):
        if len(found) == 1:
            (count,) = found
            return int(count)
    return None


def _is_list_of_samples(batch: Any) -> bool:
    """Whether it is samples one after the other, as they came: dicts with numbers or texts, or arrays of any length."""
    if not isinstance(batch, (list, tuple)) or not all(isinstance(each, Mapping) for each in batch):
        return False
    return len(_rows(batch)) != 1 or any(
        not hasattr(value, "shape") and not is_container(value) for each in batch for value in each.values()
    )


def _rows(tree: Any) -> set[int]:
    return {leaf.shape[0] for leaf in leaves(tree) if _has_axis(leaf)}


def _has_axis(leaf: Any) -> bool:
    return len(getattr(leaf, "shape", ())) > 0
