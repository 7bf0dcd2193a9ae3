"""A state as JSON and tensors, and back.

What JSON has is written as it is. The rest is an object with one key that starts with `$`; a `$` at the start of
a user's own key is doubled.

    {"$tensor": "model/weight"}     the tensor of that name in the file
    {"$raw": "model/weight"}        the same, as a RawTensor even where numpy has the type
    {"$complex": "model/weight"}    the same, as complex128, of which the file has pairs of float64
    {"$float": "7ff8000000000000"}  NaN and the infinities: the bits of the float64
    {"$int": "-1f"}                 a number that other readers of JSON might round, in hexadecimal
    {"$text": "edb3bf"}             text with half a surrogate pair, which UTF-8 hasn't: its bytes
"""

from __future__ import annotations

import contextlib
import math
import re
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from mlpug.checkpoints.parsing import MalformedError
from mlpug.checkpoints.tensors import ITEM_SIZES, Array, RawTensor, Tensor, can_be, num_bytes, type_name
from mlpug.errors import StateError

MAX_DEPTH = 100  # dicts and lists inside each other; reading has to bound it, so writing does

_PLACEHOLDERS = {"$tensor", "$raw", "$complex", "$float", "$int", "$text"}
_SURROGATES = re.compile("[\ud800-\udfff]")
_CAN_HOLD = "dicts with text as keys, lists, bool, int, float, str, None, numpy arrays and RawTensor"
_CURES = {
    "tuple": "Make it a list, and a tuple again when the state is set.",
    "set": "Make it a sorted list, and a set again when the state is set.",
    "frozenset": "Make it a sorted list, and a set again when the state is set.",
    "bytes": "Make it a numpy array: np.frombuffer(value, np.uint8).",
    "Tensor": "Make it a numpy array, or a RawTensor where numpy doesn't have its type of numbers.",
}


def flatten(state: object, root: str = "state") -> tuple[dict[str, Any], list[Tensor]]:
    """The state as what JSON can hold, and the tensors that are left out of it.

    Args:
        state: A dict of what a checkpoint can hold.
        root: What messages call the state.

    Raises:
        StateError: It holds something else, something too deep, or itself.

    >>> tree, tensors = flatten({"model": {"weight": np.ones((2, 3))}, "epoch": 4})
    >>> tree
    {'model': {'weight': {'$tensor': 'model/weight'}}, 'epoch': 4}
    >>> [(tensor.name, tensor.dtype, tensor.shape) for tensor in tensors]
    [('model/weight', 'F64', (2, 3))]
    """
    if type(state) is not dict:
        raise StateError(f"The {root} must be a dict, not a {type(state).__name__}.")
    flattening = _Flattening(root)
    tree: dict[str, Any] = flattening.encoded(state)
    return tree, flattening.tensors


class _Flattening:
    """One walk over a state."""

    def __init__(self, root: str) -> None:
        self.tensors: list[Tensor] = []
        self._root = root
        self._path: list[str] = []
        self._inside: set[int] = set()  # ids of the dicts and lists on the path

    def encoded(self, value: Any) -> Any:
        kind = type(value)  # not isinstance: an IntEnum or an OrderedDict would come back as something else
        if value is None or kind is bool:
            return value
        if kind is int:
            return value if -(2**53) < value < 2**53 else {"$int": f"{value:x}"}
        if kind is float:
            return value if math.isfinite(value) else {"$float": struct.pack(">d", value).hex()}
        if kind is str:
            return {"$text": _hex(value)} if _SURROGATES.search(value) else value
        if kind is dict or kind is list:
            return self._container(value)
        if kind is np.ndarray:
            return self._array(value)
        if kind is RawTensor:
            return self._raw(value)
        raise self._error(f"is {_a(kind)}, which a checkpoint can't hold", _cure(value))

    def _container(self, value: dict[Any, Any] | list[Any]) -> Any:
        if id(value) in self._inside:
            raise self._error(f"is a {type(value).__name__} that contains itself", "A state is a tree: leave that out.")
        if len(self._path) >= MAX_DEPTH:
            raise self._error(f"is more than {MAX_DEPTH} dicts and lists deep", "Make the state flatter.")
        self._inside.add(id(value))
        encoded: dict[str, Any] | list[Any]
        if isinstance(value, dict):
            encoded = {}
            for key, item in value.items():
                encoded[self._key(key)] = self._item(key, item)
        else:
            encoded = []
            for index, item in enumerate(value):
                encoded.append(self._item(str(index), item))
        self._inside.remove(id(value))
        return encoded

    def _item(self, key: str, item: Any) -> Any:
        self._path.append(key)
        encoded = self.encoded(item)
        self._path.pop()
        return encoded

    def _key(self, key: Any) -> str:
        if type(key) is not str:
            raise self._error(f"has the key {key!r}, which is {_a(type(key))}", "Keys must be text: use str(key).")
        if _SURROGATES.search(key):
            return f"$x{_hex(key)}"
        return f"${key}" if key.startswith("$") else key

    def _array(self, array: Array) -> dict[str, str]:
        if array.dtype.name == "complex128":
            return {"$complex": self._add("F64", (*array.shape, 2), array)}
        dtype = type_name(array.dtype)
        if dtype is None:
            cure = "Make it an array of bool, integers, floats of at most 64 bits, or complex numbers."
            raise self._error(f"is an array of dtype {array.dtype}, which a checkpoint can't hold", cure)
        return {"$tensor": self._add(dtype, array.shape, array)}

    def _raw(self, tensor: RawTensor) -> dict[str, str]:
        problem = problem_of(tensor)
        if problem:
            raise self._error(f"is a RawTensor {problem}", "It takes the safetensors name, the shape and the bytes.")
        return {"$raw": self._add(tensor.dtype, tensor.shape, tensor.data)}

    def _add(self, dtype: str, shape: tuple[int, ...], source: Array) -> str:
        name = tensor_name(self._path)
        self.tensors.append(Tensor(name, dtype, shape, source))
        return name

    def _error(self, problem: str, cure: str) -> StateError:
        where = f"The {self._root} at '{'/'.join(self._path)}'" if self._path else f"The {self._root}"
        return StateError(f"{where} {problem}. {cure}")


def restore(tree: object, tensor: Callable[[str, str], Any]) -> Any:
    """The state that `flatten` made this tree of.

    Args:
        tree: What came out of the JSON; it isn't trusted.
        tensor: Gives the array for a placeholder, called with "$tensor", "$raw" or "$complex", and the tensor's name.

    Raises:
        MalformedError: No state is written like this.

    >>> restore({"model": {"$tensor": "model"}, "best": {"$float": "7ff0000000000000"}}, lambda kind, name: "an array")
    {'model': 'an array', 'best': inf}
    """
    if isinstance(tree, list):
        return [restore(item, tensor) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if len(tree) == 1:
        ((key, value),) = tree.items()
        if key in _PLACEHOLDERS:
            return _restored(key, value, tensor)
    return {_restored_key(key): restore(item, tensor) for key, item in tree.items()}


def _restored(kind: str, value: object, tensor: Callable[[str, str], Any]) -> Any:
    if not isinstance(value, str):
        raise MalformedError(f"{kind} in its state is followed by {_a(type(value))}, not by text")
    try:
        if kind == "$float":
            return struct.unpack(">d", bytes.fromhex(value))[0]
        if kind == "$int":
            return int(value, 16)  # takes time in proportion to the digits, unlike the decimal ones
        if kind == "$text":
            return _from_hex(value)
    except (ValueError, struct.error) as error:
        raise MalformedError(f"its state has a {kind} that can't be read") from error
    return tensor(kind, value)


def _restored_key(key: str) -> str:
    if not key.startswith("$"):
        return key
    if key.startswith("$$"):
        return key[1:]
    if key.startswith("$x"):
        with contextlib.suppress(ValueError):
            return _from_hex(key[2:])
    raise MalformedError(f"its state has the key {key[:40]!r}, which isn't one that mlpug writes")


def tensor_name(path: list[str]) -> str:
    """The keys with slashes between them, and what could be taken for something else escaped as in a JSON pointer.

    >>> tensor_name(["model", "a/b", "~", "0"])
    'model/a~1b/~0/0'
    >>> tensor_name(["__metadata__"])  # which safetensors has for itself
    '~__metadata__'
    """
    name = "/".join(key.replace("~", "~0").replace("/", "~1") for key in path)
    name = _SURROGATES.sub(lambda half: f"~u{ord(half[0]):x}", name)
    return f"~{name}" if name == "__metadata__" else name


def problem_of(tensor: RawTensor) -> str | None:
    """What is wrong with a RawTensor, None where nothing is."""
    if type(tensor.dtype) is not str or tensor.dtype not in ITEM_SIZES:
        return f"of dtype {tensor.dtype!r}, which isn't one of {', '.join(ITEM_SIZES)}"
    if type(tensor.shape) is not tuple or not all(type(size) is int and size >= 0 for size in tensor.shape):
        return f"whose shape is {tensor.shape!r}, not a tuple of sizes"
    if not can_be(tensor.shape, tensor.dtype):
        return "of a shape that is too large, or has too many axes"
    data = tensor.data
    if type(data) is not np.ndarray or data.dtype != np.uint8 or data.ndim != 1:
        return "whose data isn't a numpy array of uint8 with one axis"
    expected = num_bytes(tensor.dtype, tensor.shape)
    if len(data) != expected:
        return f"with {len(data)} bytes, where {tensor.dtype} of shape {tensor.shape} has {expected}"
    return None


def _hex(text: str) -> str:
    return text.encode("utf-8", "surrogatepass").hex()


def _from_hex(digits: str) -> str:
    return bytes.fromhex(digits).decode("utf-8", "surrogatepass")


def _a(kind: type) -> str:
    """A type's name, with its module where that tells more.

    >>> _a(tuple), _a(np.float32)
    ('a tuple', 'a numpy.float32')
    """
    return f"a {kind.__name__}" if kind.__module__ == "builtins" else f"a {kind.__module__}.{kind.__qualname__}"


def _cure(value: object) -> str:
    if isinstance(value, np.generic):
        return "Make it a number of Python's own: value.item()."
    for base, plain in ((dict, "dict"), (list, "list"), (str, "str"), (int, "int"), (float, "float")):
        if isinstance(value, base):
            return f"It would come back as a {plain}: make it one, {plain}(value)."
    if isinstance(value, np.ndarray):
        return "It would come back as an array without what its own type adds: make it one, np.array(value)."
    return _CURES.get(type(value).__name__, f"It can hold {_CAN_HOLD}.")
