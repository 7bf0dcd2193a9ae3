"""What tells the value of an attribute from another one, in a time and memory that don't grow with it.

No `__eq__`, no `__repr__` and no property of a script's is called.
"""

from __future__ import annotations

import array
import datetime
import decimal
import enum
import fractions
import hashlib
import pathlib
import types
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np

from mlpug.datasets.reachable import attributes_of, is_of_library

MOST_ITEMS = 4000  # of one attribute, in containers of containers, that are looked at
MANY = 1000  # items from which on only some of a container are
_SOME = 100  # at each end; in a list as many between
MOST_BYTES = 1_000_000  # of arrays, from which on only some numbers are looked at
_SOME_NUMBERS = 4096
MOST_DEPTH = 20

_NUMBERS_AND_TEXTS = (bool, float, complex, type(None), type(Ellipsis), range)
_WITH_A_REPR = (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, fractions.Fraction, uuid.UUID)
_LISTS = (list, tuple, deque)
_SETS = (set, frozenset)


class Values:
    """Tells plain values apart: numbers, texts, arrays, containers and objects of the script's with such.

    Args:
        to_host: an array of the backend as numpy's, or as a number; something else as it is.
        is_elsewhere: whether an object is looked at where it is itself, and not in what holds it.
    """

    def __init__(self, to_host: Callable[[Any], Any], is_elsewhere: Callable[[Any], bool]) -> None:
        self._to_host = to_host
        self._is_elsewhere = is_elsewhere

    def fingerprint(self, value: Any, keeps_variables: bool = False) -> bytes | None:
        """What it shares with equal values; None where it isn't plain, such as a function, a file or an optimizer.

        Args:
            value: of an attribute.
            keeps_variables: whether a backend's variables, whose values it assigns, are nobody's matter.

        >>> values = Values(lambda tree: tree, lambda value: False)
        >>> values.fingerprint([1, {"a": (2.0,)}]) == values.fingerprint([1, {"a": (2.0,)}])
        True
        >>> values.fingerprint(["1"]) == values.fingerprint([1]), values.fingerprint(print)
        (False, None)
        """
        look = _Look(self._to_host, self._is_elsewhere, keeps_variables)
        try:
            if _is_of_a_graph(value):
                return None
            look.at(value)
        except Exception:  # noqa: BLE001 - a class may do anything where it is asked for its length or its items
            return None
        return None if look.others and not look.plain else look.digest.digest()


class _Look:
    """One look at one value."""

    def __init__(
        self, to_host: Callable[[Any], Any], is_elsewhere: Callable[[Any], bool], keeps_variables: bool
    ) -> None:
        self._to_host = to_host
        self._is_elsewhere = is_elsewhere
        self._keeps_variables = keeps_variables
        self._items_left = MOST_ITEMS
        self._bytes_left = MOST_BYTES
        self._inside: set[int] = set()  # ids of what is being looked into
        self.digest = hashlib.blake2b(digest_size=16)
        self.plain = self.others = 0  # values that were met

    def at(self, value: Any) -> None:
        """Add a value, and what it holds."""
        kind = type(value)
        self._items_left -= 1
        if self._items_left < 0:
            return
        self._add(kind.__qualname__)
        if kind in _NUMBERS_AND_TEXTS:
            self._leaf(repr(value))
        elif isinstance(value, enum.Enum):
            self._leaf(str(object.__getattribute__(value, "_name_")))
        elif isinstance(value, int):
            self._leaf(hex(int.__index__(value)))
        elif isinstance(value, (str, bytes, bytearray, array.array)):
            self._text(value)
        elif isinstance(value, (np.ndarray, np.generic)):
            self._numbers(value)
        elif (isinstance(value, _WITH_A_REPR) and is_of_library(kind.__module__)) or isinstance(value, pathlib.Path):
            self._leaf(str(value))
        elif hasattr(kind, "shape") and hasattr(kind, "dtype") and is_of_library(kind.__module__):
            if self._keeps_variables and hasattr(kind, "assign"):
                self.others += 1
            else:
                self._array(value)
        else:
            self._within(value)

    def _add(self, text: str) -> None:
        self.digest.update(text.encode("utf-8", "surrogatepass") + b";")

    def _leaf(self, text: str) -> None:
        self.plain += 1
        self._add(text)

    def _text(self, value: Any) -> None:
        self.plain += 1
        self._add(str(len(value)))
        if len(value) > MANY:
            value = value[:_SOME] + value[:: len(value) // _SOME] + value[-_SOME:]
        self.digest.update(value.encode("utf-8", "surrogatepass") if isinstance(value, str) else bytes(value))

    def _array(self, value: Any) -> None:
        """One of the backend; what it isn't ready to give is nobody's state, such as one in a graph."""
        try:
            shape = tuple(int(size) for size in value.shape)
            numbers = self._to_host(_some_of(value, shape))
        except Exception:  # noqa: BLE001 - whatever a host has against reading it
            self.others += 1
            return
        if isinstance(numbers, (np.ndarray, np.generic, int, float, complex)):
            self._add(f"{value.dtype}{shape}")
            self._numbers(np.asarray(numbers))
        else:
            self.others += 1

    def _numbers(self, value: Any) -> None:
        self.plain += 1
        self._add(f"{value.dtype.str}{value.shape}")
        if isinstance(value, np.memmap):  # a file, of which nothing is to be read
            self._add(str(id(value)))
        elif value.dtype.hasobject:
            for item in islice(np.asarray(value).flat, _SOME):
                self.at(item)
        else:
            few = value.nbytes <= min(self._bytes_left, MOST_BYTES)
            self._bytes_left -= value.nbytes if few else 0
            self.digest.update((value if few else np.asarray(_some_of(value, value.shape))).tobytes())

    def _within(self, value: Any) -> None:
        if id(value) in self._inside or len(self._inside) > MOST_DEPTH or self._is_elsewhere(value):
            self.others += 1
            return
        self._inside.add(id(value))
        is_looked_into = False
        if isinstance(value, (*_LISTS, *_SETS, dict)):
            is_looked_into = True
            self._container(value)
        if isinstance(value, types.SimpleNamespace) or not is_of_library(type(value).__module__):
            is_looked_into = True
            for name, item in attributes_of(value):
                self._add(name)
                self.at(item)
        if not is_looked_into:
            self.others += 1
        self._inside.remove(id(value))

    def _container(self, value: Any) -> None:
        self._add(str(len(value)))
        if isinstance(value, _SETS):
            items = iter(sorted(_of_text(item) for item in value) if len(value) <= MANY else ())
        else:
            items = _some_pairs(value) if isinstance(value, dict) else _some_items(value)
        for item in items:
            self.at(item)


def _some_of(value: Any, shape: tuple[int, ...]) -> Any:
    """Numbers from all of a large array; a small one as it is."""
    size = 1
    for each in shape:
        size *= each
    if size <= MOST_BYTES // 8:
        return value
    left, steps = _SOME_NUMBERS, []
    for each in shape:
        taken = min(each, max(1, left))
        steps.append(slice(None, None, -(-each // taken)))
        left //= taken
    return value[tuple(steps)]


def _some_items(value: Any) -> Iterator[Any]:
    """All, or those at the ends, the last ones first, and some between."""
    if len(value) <= MANY:
        yield from list(value)
        return
    yield from list(islice(reversed(value), _SOME))
    yield from list(islice(value, _SOME))
    if not isinstance(value, deque):  # which is slow in its middle
        yield from value[:: len(value) // _SOME]


def _some_pairs(value: dict[Any, Any]) -> Iterator[Any]:
    pairs = value.items()
    is_few = len(pairs) <= MANY
    for key, item in list(pairs) if is_few else [*islice(reversed(pairs), _SOME), *islice(pairs, _SOME)]:
        yield key
        yield item


def _of_text(item: Any) -> str:
    """For an order of what has none; of something else than texts and numbers only the class."""
    kind = type(item)
    return f"{kind.__qualname__}{item!r}" if kind in (str, bytes, int, *_NUMBERS_AND_TEXTS) else kind.__qualname__


def _is_of_a_graph(value: Any) -> bool:
    """Whether it is a step in a computation of torch's, which no later batch can go on from."""
    return hasattr(type(value), "grad_fn") and value.grad_fn is not None
