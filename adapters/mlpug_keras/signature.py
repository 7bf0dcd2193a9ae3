"""Holds batches against the signature that they were promised to have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mlpug.errors import DatasetError
from mlpug.trees import map_leaves
from mlpug_keras.batches import to_native


def accepted(batch: Any, is_native: Callable[[Any], bool], signature: Any) -> Any:
    """The batch with arrays that the backend computes with, if it fits the signature.

    Raises:
        DatasetError: the batch has another nesting, shape or dtype than the signature.
    """
    batch = to_native(batch, is_native)
    if signature is None:
        return batch
    try:
        return _fitted(batch, signature)
    except _DoesNotFitError:
        raise DatasetError(
            f"The batch doesn't fit batch_data_signature. Expected {_described(signature)}, received "
            f"{_described(batch)}. Correct the signature, convert the data, or leave batch_data_signature out."
        ) from None


class _DoesNotFitError(Exception):
    pass


def _fitted(batch: Any, spec: Any) -> Any:
    """The batch, its dicts in the signature's order: the compiled step takes arrays in that order."""
    if isinstance(spec, Mapping):
        if not isinstance(batch, Mapping) or batch.keys() != spec.keys():
            raise _DoesNotFitError
        return {name: _fitted(batch[name], spec[name]) for name in spec}
    if isinstance(spec, (list, tuple)):
        if not isinstance(batch, (list, tuple)) or len(batch) != len(spec):
            raise _DoesNotFitError
        items = [_fitted(item, item_spec) for item, item_spec in zip(batch, spec, strict=True)]
        return type(spec)(*items) if hasattr(spec, "_fields") else type(spec)(items)
    if not _array_fits(batch, spec):
        raise _DoesNotFitError
    return batch


def _array_fits(array: Any, spec: Any) -> bool:
    shape = getattr(array, "shape", None)
    if shape is None or len(shape) != len(spec.shape) or _dtype_name(array) != _dtype_name(spec):
        return False
    return all(expected is None or length == expected for length, expected in zip(shape, spec.shape, strict=True))


def _described(tree: Any) -> str:
    return str(map_leaves(_Text, tree))


class _Text:
    """An array's dtype and shape, shown without quotes."""

    def __init__(self, leaf: Any) -> None:
        has_shape = hasattr(leaf, "shape")
        self._text = f"{_dtype_name(leaf)}{list(leaf.shape)}" if has_shape else f"a {type(leaf).__name__}"

    def __repr__(self) -> str:
        return self._text


def _dtype_name(leaf: Any) -> str:
    dtype = leaf.dtype
    return dtype if isinstance(dtype, str) else getattr(dtype, "name", None) or np.dtype(dtype).name
