"""Arrays as the tensors of a safetensors file: which types of numbers there are, and arrays as plain bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

Array: TypeAlias = np.ndarray[Any, np.dtype[Any]]
Bytes: TypeAlias = np.ndarray[tuple[int], np.dtype[np.uint8]]

# The format is little-endian on every machine.
NUMPY_TYPES = {
    "BOOL": np.dtype("?"),
    "I8": np.dtype("i1"),
    "I16": np.dtype("<i2"),
    "I32": np.dtype("<i4"),
    "I64": np.dtype("<i8"),
    "U8": np.dtype("u1"),
    "U16": np.dtype("<u2"),
    "U32": np.dtype("<u4"),
    "U64": np.dtype("<u8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
    "C64": np.dtype("<c8"),
}

# What the format has and numpy hasn't, by the names that ml_dtypes gives: so it needn't be imported to know them.
OTHER_TYPES = {
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
}

ITEM_SIZES = {name: dtype.itemsize for name, dtype in NUMPY_TYPES.items()}  # bytes
ITEM_SIZES |= {name: 2 if name == "BF16" else 1 for name in OTHER_TYPES.values()}

MAX_DIMENSIONS = 64  # numpy's own limit; complex128 takes one more in the file

_NAMES = {dtype.name: name for name, dtype in NUMPY_TYPES.items()} | OTHER_TYPES


@dataclass(frozen=True, slots=True, eq=False)
class RawTensor:
    """A tensor as bytes, for types of numbers that numpy hasn't, such as bfloat16.

    >>> import numpy as np
    >>> from mlpug.checkpoints import RawTensor
    >>> one_and_two = RawTensor("BF16", (2,), np.array([0x80, 0x3F, 0x00, 0x40], dtype=np.uint8))
    >>> one_and_two == RawTensor("BF16", (2, 1), one_and_two.data)
    False
    """

    dtype: str  # as safetensors calls it: "BF16", "F8_E4M3", ...
    shape: tuple[int, ...]
    data: Bytes  # one axis of uint8: the numbers in C order, little-endian

    def __eq__(self, other: object) -> bool:
        """Equal are tensors with the same type, shape and bytes; so a NaN equals itself and -0.0 isn't 0.0."""
        if not isinstance(other, RawTensor):
            return NotImplemented
        return (self.dtype, self.shape) == (other.dtype, other.shape) and np.array_equal(self.data, other.data)

    __hash__ = None  # type: ignore[assignment]  # the bytes can change


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor on its way into a file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    source: Array  # what `as_bytes` makes bytes of; not yet a copy

    @property
    def num_bytes(self) -> int:
        return num_bytes(self.dtype, self.shape)


def num_bytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Of a tensor of this type and shape, in Python's numbers, which don't overflow."""
    return ITEM_SIZES[dtype] * math.prod(shape)


def can_be(shape: tuple[int, ...], dtype: str) -> bool:
    """Whether numpy can have an array like that: it counts bytes in 63 bits, as if no axis were empty."""
    return len(shape) <= MAX_DIMENSIONS + 1 and ITEM_SIZES[dtype] * math.prod(size or 1 for size in shape) < 2**63


def type_name(dtype: np.dtype[Any]) -> str | None:
    """The format's name for numpy's or ml_dtypes' type of numbers, None where it has none.

    >>> type_name(np.dtype(">f4")), type_name(np.dtype(object)), type_name(np.dtype("M8[s]"))
    ('F32', None, None)
    """
    if dtype.names is not None or dtype.subdtype is not None:
        return None
    name = _NAMES.get(dtype.name)
    return name if name is not None and ITEM_SIZES[name] == dtype.itemsize else None


def as_bytes(array: Array) -> Bytes:
    """The numbers in C order, little-endian; the array's own memory where that has them so, a copy where not.

    >>> as_bytes(np.array([[1, 2], [3, 4]], dtype=">u2").T).tolist()
    [1, 0, 3, 0, 2, 0, 4, 0]
    """
    little_endian = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little_endian).reshape(-1).view(np.uint8)


def empty(dtype: str, shape: tuple[int, ...], as_complex: bool, as_raw: bool) -> tuple[Array | RawTensor, Bytes]:
    """A tensor to read into, and its memory as bytes.

    `as_complex` makes complex numbers of pairs in the last axis, `as_raw` leaves bytes that numpy has a type for.
    """
    if as_raw or dtype not in NUMPY_TYPES:
        data = np.empty(num_bytes(dtype, shape), np.uint8)
        return RawTensor(dtype, shape, data), data
    array = np.empty(shape[:-1], "<c16") if as_complex else np.empty(shape, NUMPY_TYPES[dtype])
    return array, array.reshape(-1).view(np.uint8)
