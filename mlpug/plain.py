"""Python's values as what a checkpoint holds, and back.

What a checkpoint holds stays as it is, so that names in the file stay clear. The rest becomes a dict with one key that
says what it was; a dict of the user's that looks like that is written as its items.

    {"__tuple__": [...]}                   also __set__, __frozenset__
    {"__deque__": [[...], maxlen]}
    {"__dict__": [[key, value], ...]}      a dict with keys that aren't text, or that looks like one of these
    {"__numpy__": ["float32", 0.5]}        a single number of numpy's
    {"__complex__": [real, imaginary]}
    {"__bytes__": array of uint8}
    {"__path__": "runs/1"}
    {"__datetime__": "2024-02-29T12:00:00+00:00"}, {"__date__": "2024-02-29"}
    {"__timedelta__": [days, seconds, microseconds]}
    {"__leaf__": ...}                      what `leaf` made of anything else
"""

from __future__ import annotations

import datetime
import pathlib
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from mlpug.checkpoints import RawTensor
from mlpug.checkpoints.tensors import type_name
from mlpug.errors import CheckpointMismatchError, StateError

MAX_DEPTH = 100  # dicts, lists and so on inside each other, as in a checkpoint's file

_AS_THEY_ARE = (bool, int, float, str, type(None), RawTensor)
_DICTS = (dict, OrderedDict, defaultdict, Counter)  # the rest come back as a dict too, which equals them
_NUMBERS = {
    np.dtype(code).name: np.dtype(code).type
    for code in ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16")
}
_CURES = {
    "Namespace": "Make it a dict: vars(value).",
    "Tensor": "Make it a numpy array, or a number: value.item().",
    "generator": "Make it a list.",
    "function": "Leave it out: a checkpoint holds data, no code.",
}


def to_plain(tree: Any, leaf: Callable[[Any], Any] | None = None, path: tuple[str, ...] = ()) -> Any:
    """The tree as what `mlpug.checkpoints.save` takes; `from_plain` gives back an equal one.

    Arrays stay the same objects, uncopied. OrderedDict, defaultdict and Counter come back as dicts, arrays of
    ml_dtypes' numbers as `RawTensor` once they were in a file.

    Args:
        tree: Any nesting of dicts, lists, tuples, sets and deques around numbers (also numpy's), text, bytes, paths,
            dates, None and numpy arrays.
        leaf: Makes something of the above of a value that isn't, such as a tensor; returns NotImplemented where it
            can't. `from_plain` then needs a `leaf` that turns it back.
        path: Where the tree is in the whole state, for messages.

    Raises:
        StateError: It holds something else, something too deep, or itself.

    >>> to_plain({"betas": (0.9, 0.999), "state": {0: "a"}})
    {'betas': {'__tuple__': [0.9, 0.999]}, 'state': {'__dict__': [[0, 'a']]}}
    >>> from_plain(to_plain({"betas": (0.9, 0.999), "state": {0: "a"}}))
    {'betas': (0.9, 0.999), 'state': {0: 'a'}}
    >>> to_plain({"model": {"activation": print}})
    Traceback (most recent call last):
    mlpug.errors.StateError: The state at 'model/activation' is a builtin_function_or_method, ...
    """
    return _ToPlain(leaf, path).plain(tree)


class _ToPlain:
    """One walk over a tree."""

    def __init__(self, leaf: Callable[[Any], Any] | None, path: tuple[str, ...]) -> None:
        self._leaf = leaf
        self._path = list(path)
        self._depth = 0
        self._inside: set[int] = set()  # ids of the containers on the path

    def plain(self, value: Any) -> Any:
        kind = type(value)
        if kind in _AS_THEY_ARE or (kind is np.ndarray and _can_be_held(value)):
            return value
        if kind in _CONTAINERS:
            return self._within(value, _CONTAINERS[kind])
        if kind in _VALUES:
            return _VALUES[kind](value)
        if isinstance(value, pathlib.Path):
            return {"__path__": str(value)}
        if isinstance(value, np.generic) and _NUMBERS.get(value.dtype.name) is kind:
            return {"__numpy__": [value.dtype.name, self.plain(value.item())]}
        if kind is datetime.datetime and (value.tzinfo is None or type(value.tzinfo) is datetime.timezone):
            return {"__datetime__": value.isoformat()}
        return self._of_leaf(value)

    def mapping(self, value: dict[Any, Any]) -> dict[str, Any]:
        if all(type(key) is str for key in value) and not is_marked(value):
            return {key: self._item(key, item) for key, item in value.items()}
        return {"__dict__": [[self._item(f"{key!r}", key), self._item(f"{key}", item)] for key, item in value.items()]}

    def sequence(self, value: Iterable[Any]) -> list[Any]:
        return [self._item(str(index), item) for index, item in enumerate(value)]

    def _item(self, name: str, item: Any) -> Any:
        self._path.append(name)
        plain = self.plain(item)
        self._path.pop()
        return plain

    def _within(self, value: Any, convert: Callable[[_ToPlain, Any], Any]) -> Any:
        if id(value) in self._inside:
            raise self._error(f"is {_a(type(value))} that contains itself", "A state is a tree: leave that out.")
        if self._depth >= MAX_DEPTH:
            raise self._error(f"is more than {MAX_DEPTH} dicts and lists deep", "Make the state flatter.")
        self._inside.add(id(value))
        self._depth += 1
        plain = convert(self, value)
        self._depth -= 1
        self._inside.remove(id(value))
        return plain

    def _of_leaf(self, value: Any) -> Any:
        made = NotImplemented if self._leaf is None else self._leaf(value)
        if made is NotImplemented:
            what = f"an array of dtype {value.dtype}" if type(value) is np.ndarray else _a(type(value))
            raise self._error(f"is {what}, which a checkpoint can't hold", _cure(value))
        return {"__leaf__": self._within(value, lambda walk, _: walk.plain(made))}

    def _error(self, problem: str, cure: str) -> StateError:
        where = f"The state at '{'/'.join(self._path)}'" if self._path else "The state"
        return StateError(f"{where} {problem}. {cure}")


_CONTAINERS: dict[type, Callable[[_ToPlain, Any], Any]] = {
    **dict.fromkeys(_DICTS, _ToPlain.mapping),
    list: _ToPlain.sequence,
    tuple: lambda walk, value: {"__tuple__": walk.sequence(value)},
    # Sorted, so that the same state gives the same file.
    set: lambda walk, value: {"__set__": walk.sequence(sorted(value, key=_in_order))},
    frozenset: lambda walk, value: {"__frozenset__": walk.sequence(sorted(value, key=_in_order))},
    deque: lambda walk, value: {"__deque__": [walk.sequence(value), value.maxlen]},
}
_VALUES: dict[type, Callable[[Any], Any]] = {
    complex: lambda value: {"__complex__": [value.real, value.imag]},
    bytes: lambda value: {"__bytes__": np.frombuffer(value, np.uint8)},
    datetime.date: lambda value: {"__date__": value.isoformat()},
    datetime.timedelta: lambda value: {"__timedelta__": [value.days, value.seconds, value.microseconds]},
}


def from_plain(tree: Any, leaf: Callable[[Any], Any] | None = None) -> Any:
    """What `to_plain` made this of.

    Args:
        tree: What `to_plain` gave, or `mlpug.checkpoints.load` of it. It isn't changed; arrays stay the same objects.
        leaf: Turns back what the `leaf` of `to_plain` made.

    Raises:
        CheckpointMismatchError: `to_plain` makes nothing like this.

    >>> from_plain({"window": {"__deque__": [[1, 2], 100]}})
    {'window': deque([1, 2], maxlen=100)}
    """
    if type(tree) is list:
        return [from_plain(item, leaf) for item in tree]
    if type(tree) is not dict:
        return tree
    mark = _mark_of(tree)
    if mark is None:
        return {key: from_plain(item, leaf) for key, item in tree.items()}
    if mark == "__dict__":
        content: Any = [(from_plain(key, leaf), from_plain(item, leaf)) for key, item in _pairs(tree[mark])]
    else:
        content = from_plain(tree[mark], leaf)
    if mark == "__leaf__" and leaf is not None:
        return leaf(content)
    try:
        return _RESTORED[mark](content)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CheckpointMismatchError(
            f"The state has a {mark!r} that this version of mlpug can't restore here. Was the checkpoint written by a "
            "newer version, or on another backend?"
        ) from error


_RESTORED: dict[str, Callable[[Any], Any]] = {
    "__tuple__": tuple,
    "__set__": set,
    "__frozenset__": frozenset,
    "__deque__": lambda content: deque(content[0], content[1]),
    "__dict__": dict,
    "__numpy__": lambda content: _NUMBERS[content[0]](content[1]),
    "__complex__": lambda content: complex(*content),
    "__bytes__": lambda content: content.tobytes(),
    "__path__": pathlib.Path,
    "__datetime__": datetime.datetime.fromisoformat,
    "__date__": datetime.date.fromisoformat,
    "__timedelta__": lambda content: datetime.timedelta(*content),
}


def _mark_of(tree: dict[Any, Any]) -> str | None:
    """The key that says what this stands for; None where it is a dict like any other."""
    if len(tree) != 1:
        return None
    (key,) = tree
    return key if type(key) is str and len(key) > 4 and key.startswith("__") and key.endswith("__") else None


def is_marked(tree: dict[Any, Any]) -> bool:
    """Whether a dict stands for something else, or would be taken for such a one.

    >>> is_marked({"__tuple__": [1]}), is_marked({"__tuple__": [1], "loss": 2})
    (True, False)
    """
    return _mark_of(tree) is not None


def _pairs(items: Any) -> list[tuple[Any, Any]]:
    if type(items) is not list or not all(type(item) is list and len(item) == 2 for item in items):
        raise CheckpointMismatchError("The state has a '__dict__' that isn't a list of keys and values.")
    return [(key, item) for key, item in items]


def _can_be_held(array: np.ndarray[Any, Any]) -> bool:
    return array.dtype.name == "complex128" or type_name(array.dtype) is not None


def _in_order(item: Any) -> tuple[str, str]:
    return type(item).__name__, repr(item)


def _a(kind: type) -> str:
    return f"a {kind.__name__}" if kind.__module__ == "builtins" else f"a {kind.__module__}.{kind.__qualname__}"


def _cure(value: object) -> str:
    for base in (dict, list, tuple, str, int, float):
        if isinstance(value, base):
            return f"It would come back as a {base.__name__}: make it one, {base.__name__}(value)."
    if isinstance(value, datetime.datetime):
        return "Its time zone would come back as an offset: make it one, value.astimezone(datetime.UTC)."
    if isinstance(value, np.ndarray):
        return "Make it an array of bool, integers, floats of at most 64 bits, or complex numbers."
    other = "Make it a nesting of dicts, lists, tuples and sets around numbers, text, None and numpy arrays."
    return _CURES.get(type(value).__name__, other)
