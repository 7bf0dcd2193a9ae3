"""Batches as trees: mapping, looking inside and counting."""

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlpug.trees import leaves, map_leaves, num_samples_in

Pair = namedtuple("Pair", ["x", "y"])


class Words(list):
    """A list of a kind of its own, as data loaders make them."""


@dataclass(frozen=True)
class Frozen:
    x: Any
    total: Any = field(init=False, default=10)


@dataclass(frozen=True, slots=True)
class Slotted:
    x: Any
    y: Any


@dataclass
class Open:
    x: Any


def test_map_leaves_keeps_tuples_lists_and_dicts():
    assert map_leaves(lambda leaf: leaf * 2, ({"a": 1}, [2, (3,)])) == ({"a": 2}, [4, (6,)])


def test_map_leaves_keeps_empty_nestings():
    assert map_leaves(lambda leaf: leaf + 1, ((), [], {})) == ((), [], {})


def test_map_leaves_keeps_the_kind_of_a_namedtuple():
    mapped = map_leaves(lambda leaf: leaf + 1, Pair(1, [2]))

    assert type(mapped) is Pair
    assert mapped == Pair(2, [3])


def test_map_leaves_maps_every_field_of_a_frozen_dataclass_and_leaves_the_original_alone():
    original = Frozen(1)
    mapped = map_leaves(lambda leaf: leaf + 1, original)

    assert (type(mapped), mapped.x, mapped.total) == (Frozen, 2, 11)
    assert (original.x, original.total) == (1, 10)


def test_map_leaves_maps_dataclasses_with_slots():
    assert map_leaves(lambda leaf: leaf + 1, Slotted(1, (2,))) == Slotted(2, (3,))


def test_map_leaves_takes_a_dataclass_type_as_a_leaf():
    assert map_leaves(lambda leaf: [leaf], {"kind": Open}) == {"kind": [Open]}


def test_map_leaves_of_a_leaf_is_the_function_of_it():
    assert map_leaves(lambda leaf: (leaf,), None) == (None,)
    assert map_leaves(str.upper, "text") == "TEXT"


def test_leaves_come_in_order_from_every_kind_of_nesting():
    tree = {"a": [1, (2, None)], "b": Pair(3, Open({"c": 4})), "d": Frozen(5)}

    assert list(leaves(tree)) == [1, 2, None, 3, 4, 5, 10]


def test_strings_and_arrays_are_leaves():
    array = np.zeros((2, 2))

    assert list(leaves("text")) == ["text"]
    assert [leaf is array for leaf in leaves([array])] == [True]


@pytest.mark.parametrize(
    "tree",
    [
        OrderedDict(x=1, y=[2]),
        UserDict(x=1, y=[2]),
        Words([1, Words([2])]),
        Pair(1, [2]),
        {"x": 1, "y": UserDict(z=2)},
    ],
    ids=lambda tree: type(tree).__name__,
)
def test_map_leaves_reaches_the_same_leaves_that_leaves_gives(tree):
    mapped = map_leaves(lambda leaf: leaf * 10, tree)

    assert list(leaves(tree)) == [1, 2]
    assert list(leaves(mapped)) == [10, 20]


class _NoAxes(tuple):
    """As TensorFlow's `TensorShape` of a scalar: without an axis, and yet not falsy."""

    def __bool__(self):
        return True


def test_num_samples_is_the_first_axis_of_the_first_array_that_has_one():
    assert num_samples_in({"id": 7, "scale": np.float32(2), "x": np.zeros((4, 9)), "y": np.zeros(5)}) == 4
    assert num_samples_in(Pair([], Open(np.zeros((3, 2))))) == 3
    assert num_samples_in((SimpleNamespace(shape=_NoAxes()), np.zeros((4, 9)))) == 4


@pytest.mark.parametrize("batch", [None, "text", 3, [1, 2, 3], np.float64(1), np.zeros(()), {}])
def test_num_samples_is_none_where_no_array_has_an_axis(batch):
    assert num_samples_in(batch) is None
