"""Keras's variables and tensors as what a checkpoint holds, and back."""

from __future__ import annotations

from typing import Any

import keras
import ml_dtypes
import numpy as np

from mlpug.checkpoints import RawTensor
from mlpug.checkpoints.tensors import NUMPY_TYPES, OTHER_TYPES, Array

# Older versions of ml_dtypes lack some.
_TYPES = {raw: np.dtype(getattr(ml_dtypes, name)) for name, raw in OTHER_TYPES.items() if hasattr(ml_dtypes, name)}


def as_array(value: Any) -> Array:
    """The numbers of a variable or tensor, on the host; bfloat16 and float8 as arrays of ml_dtypes' types.

    >>> as_array(keras.Variable([1.0, 2.0], dtype="float32"))
    array([1., 2.], dtype=float32)
    """
    array: Array = np.asarray(keras.ops.convert_to_numpy(value))
    return array


def as_value(array: Array | RawTensor) -> Array:
    """What can be assigned to a variable: a `RawTensor`, as it comes out of a file, as an array of ml_dtypes' type.

    >>> as_value(RawTensor("BF16", (2,), np.array([0x80, 0x3F, 0x00, 0x40], dtype=np.uint8))).tolist()
    [1.0, 2.0]
    """
    if not isinstance(array, RawTensor):
        return array
    return array.data.view(NUMPY_TYPES.get(array.dtype) or _TYPES[array.dtype]).reshape(array.shape)
