"""Batches as trees: mapping, looking inside, counting and cutting."""

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from mlpug.chunks import Chunking
from mlpug.errors import ConfigurationError
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


def test_num_samples_is_the_first_axis_of_the_first_array_that_has_one():
    assert num_samples_in({"id": 7, "scale": np.float32(2), "x": np.zeros((4, 9)), "y": np.zeros(5)}) == 4
    assert num_samples_in(Pair([], Open(np.zeros((3, 2))))) == 3


@pytest.mark.parametrize("batch", [None, "text", 3, [1, 2, 3], np.float64(1), np.zeros(()), {}])
def test_num_samples_is_none_where_no_array_has_an_axis(batch):
    assert num_samples_in(batch) is None


@pytest.mark.parametrize(("length", "chunk_size"), [(6, 2), (7, 3), (2, 5), (1, 1), (5, 5)])
def test_chunks_are_as_large_as_asked_but_for_the_last_and_join_to_the_whole(length, chunk_size):
    x = np.arange(length * 2).reshape(length, 2)
    chunks = [chunk["x"] for chunk in Chunking(chunk_size).chunks_of({"x": x})]

    assert np.array_equal(np.concatenate(chunks), x)
    assert all(len(chunk) == chunk_size for chunk in chunks[:-1])
    assert 1 <= len(chunks[-1]) <= chunk_size


def test_chunks_cut_every_array_alike_and_keep_the_nesting():
    batch = Pair(np.arange(5), Frozen({"y": np.arange(10).reshape(5, 2)}))
    first, second = Chunking(3).chunks_of(batch)

    assert isinstance(first, Pair)
    assert first.x.tolist() == [0, 1, 2]
    assert second.y.x["y"].tolist() == [[6, 7], [8, 9]]


def test_what_has_no_first_axis_is_in_every_chunk():
    batch = {"x": np.arange(4), "scale": 2.0, "name": "a", "nothing": None, "count": np.array(4)}

    for chunk in Chunking(3).chunks_of(batch):
        assert {key: chunk[key] for key in ("scale", "name", "nothing", "count")} == {
            "scale": 2.0,
            "name": "a",
            "nothing": None,
            "count": np.array(4),
        }


@pytest.mark.parametrize("wrap", [UserDict, Words], ids=["mapping", "list of its own kind"])
def test_chunks_of_any_nesting_hold_each_sample_once(wrap):
    batch = UserDict(x=np.arange(5)) if wrap is UserDict else Words([np.arange(5)])
    samples = [leaf.tolist() for chunk in Chunking(2).chunks_of(batch) for leaf in leaves(chunk)]

    assert samples == [[0, 1], [2, 3], [4]]


def test_chunks_need_one_first_axis_for_all_arrays():
    with pytest.raises(ConfigurationError, match=r"have \[3, 4\] samples.*leave out batch_chunk_size"):
        Chunking(2).chunks_of((np.zeros(3), np.zeros((4, 3))))


def test_chunks_need_an_array():
    with pytest.raises(ConfigurationError, match="has no array"):
        Chunking(2).chunks_of({"scale": 2.0})
