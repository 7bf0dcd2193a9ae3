"""Holds batches against the signature that they were promised to have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mlpug.errors import DatasetError
from mlpug.trees import leaves, map_leaves
from mlpug_keras.batches import to_native


def accepted(batch: Any, is_native: Callable[[Any], bool], signature: Any) -> Any:
    """The batch with arrays that the backend computes with, if it fits the signature.

    Raises:
        DatasetError: the batch has another nesting, shape or dtype than the signature.
    """
    batch = to_native(batch, is_native)
    if signature is not None:
        specs, arrays = list(leaves(signature)), list(leaves(batch))
        if len(specs) != len(arrays) or not all(map(_fits, arrays, specs)):
            raise DatasetError(
                f"The batch doesn't fit batch_data_signature. Expected {_described(signature)}, received "
                f"{_described(batch)}. Correct the signature, convert the data, or leave batch_data_signature out."
            )
    return batch


def _fits(array: Any, spec: Any) -> bool:
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
