"""JSON from a file that nobody vouches for: bounded before it is parsed, and strict."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

import numpy as np

from mlpug.checkpoints.tensors import Bytes

# How many of each there may be in a header, which takes up to 150 bytes of memory and a microsecond or two for each. A
# tensor takes 4 objects and lists, 10 texts and about 8 commas: so these are beyond the 400,000 tensors that fit into
# the longest header. Long lists of numbers are arrays.
MAX_CONTAINERS = 2_500_000
MAX_TEXTS = 5_000_000
MAX_ITEMS = 10_000_000

MAX_NUMBER_LENGTH = 32  # characters; the format's largest number has 20, a float64 at most 24

# Possessive, and with the last quote optional, so that no text makes it look at a character again and again.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_LEVELS = np.zeros(256, np.int8)
_LEVELS[list(b"[{")] = 1
_LEVELS[list(b"]}")] = -1
_IS_IN_NUMBERS = np.zeros(256, bool)
_IS_IN_NUMBERS[list(b"+-.0123456789eE")] = True


class MalformedError(Exception):
    """What is wrong with a file, said by those who don't know its path; never seen outside this room."""


def check_amount(text: bytes, what: str) -> None:
    """Refuse JSON with more in it than mlpug writes, by its characters: also those in texts, as of JSON in JSON.

    Raises:
        MalformedError: There is too much. `what` names it.

    >>> check_amount(b"[[1, 2], [3]]", "its header")
    """
    for name, number, most in (
        ("objects and lists", text.count(b"{") + text.count(b"["), MAX_CONTAINERS),
        ("texts", text.count(b'"') // 2, MAX_TEXTS),
        ("items", text.count(b","), MAX_ITEMS),
    ):
        if number > most:
            raise MalformedError(f"{what} has {number} {name}, where at most {most} are allowed")


def parsed(text: bytes, what: str, max_depth: int) -> Any:
    """The JSON in the text.

    Raises:
        MalformedError: It isn't JSON, goes deeper than `max_depth`, has a key twice, a number longer than any that is
            written, or NaN or an infinity, which JSON hasn't. `what` names it.

    >>> parsed(b'{"epochs": [1, 2]}', "its state", max_depth=2)
    {'epochs': [1, 2]}
    >>> parsed(b'{"epochs": [1, 2]}', "its state", max_depth=1)
    Traceback (most recent call last):
    mlpug.checkpoints.parsing.MalformedError: its state is 2 levels deep, where at most 1 are allowed
    """
    outside_text = np.frombuffer(_STRING.sub(b'""', text), np.uint8)
    depth = _depth(outside_text)
    if depth > max_depth:
        raise MalformedError(f"{what} is {depth} levels deep, where at most {max_depth} are allowed")
    if (
        _longest_number(outside_text) > MAX_NUMBER_LENGTH
    ):  # Python's own limit is higher, and its error says other things
        raise MalformedError(f"{what} has a number of more than {MAX_NUMBER_LENGTH} characters")
    try:
        return json.loads(text.decode("ascii"), object_pairs_hook=_object, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"{what} isn't the JSON that mlpug writes ({error})") from error


def _depth(outside_text: Bytes) -> int:
    """How many objects and arrays are inside each other, without going into them one by one."""
    levels = _LEVELS[outside_text]
    return int(np.cumsum(levels[levels != 0], dtype=np.int32).max(initial=0))


def _longest_number(outside_text: Bytes) -> int:
    others = np.flatnonzero(~_IS_IN_NUMBERS[outside_text])
    return int(np.diff(others, prepend=-1, append=len(outside_text)).max()) - 1


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    items = dict(pairs)
    if len(items) != len(pairs):
        raise ValueError("a key is there twice")
    return items


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} isn't JSON")
