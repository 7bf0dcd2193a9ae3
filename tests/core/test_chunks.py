"""What batches are cut into, and the results of the parts put together."""

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlpug.chunks import Chunking, Group
from mlpug.errors import ConfigurationError
from mlpug.joining import joined
from mlpug.trees import leaves, map_leaves

Pair = namedtuple("Pair", ["x", "y"])


class Words(list):
    """A list of a kind of its own, as data loaders make them."""


@dataclass(frozen=True)
class Sample:
    x: Any
    y: Any = "not an array"


def mean(values):
    return sum(values) / len(values)


def as_lists(tree):
    """With arrays as lists, which can be compared."""
    return map_leaves(lambda leaf: leaf.tolist() if hasattr(leaf, "tolist") else leaf, tree)


class OnTheSecondAxis:
    """A batch with a sample in each column."""

    def __init__(self, batch):
        self.batch = batch

    def __len__(self):
        return self.batch.shape[1]

    def __getitem__(self, samples):
        return self.batch[:, samples]


# How a batch is cut.


@pytest.mark.parametrize(("length", "chunk_size"), [(6, 2), (7, 3), (2, 5), (1, 1), (5, 5)])
def test_chunks_are_as_large_as_asked_but_for_the_last_and_join_to_the_whole(length, chunk_size):
    x = np.arange(length * 2).reshape(length, 2)
    chunks = [chunk["x"] for chunk in Chunking(chunk_size).chunks_of({"x": x})]

    assert np.array_equal(np.concatenate(chunks), x)
    assert all(len(chunk) == chunk_size for chunk in chunks[:-1])
    assert 1 <= len(chunks[-1]) <= chunk_size


def test_chunks_cut_every_array_alike_and_keep_the_nesting():
    batch = Pair(np.arange(5), Sample({"y": np.arange(10).reshape(5, 2)}))
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


def test_chunks_are_views_and_a_batch_that_needs_no_cut_stays_itself():
    batch = {"x": np.arange(6)}
    first, second = Chunking(4).chunks_of(batch)

    assert all(np.shares_memory(chunk["x"], batch["x"]) for chunk in (first, second))
    assert [chunk is batch for chunk in Chunking(6).chunks_of(batch)] == [True]
    assert [chunk is batch for chunk in Chunking().chunks_of(batch)] == [True]


def test_a_batch_without_samples_is_one_chunk():
    (chunk,) = Chunking(2).chunks_of(np.zeros((0, 3)))
    assert chunk.shape == (0, 3)


@pytest.mark.parametrize("plain", [2.0, 3, "train"])
@pytest.mark.parametrize("nest", [tuple, list])
def test_a_number_or_text_beside_the_arrays_is_in_every_chunk_whatever_the_number_of_samples(nest, plain):
    for length in range(1, 6):
        x, y = np.arange(length), np.arange(length)
        chunks = Chunking(2).chunks_of(nest([x, y, plain]))

        assert [chunk[2] for chunk in chunks] == [plain] * -(-length // 2)
        assert [number for chunk in chunks for number in chunk[1].tolist()] == list(range(length))


def test_a_list_of_another_length_is_in_every_chunk():
    batch = {"x": np.arange(3), "classes": ["cat", "dog"], "weights": [0.5, 0.5]}

    for chunk in Chunking(2).chunks_of(batch):
        assert (chunk["classes"], chunk["weights"]) == (["cat", "dog"], [0.5, 0.5])


# What can't be cut.


def test_chunks_need_one_first_axis_for_all_arrays():
    with pytest.raises(ConfigurationError, match=r"have \[3, 4\] samples.*leave out batch_chunk_size"):
        Chunking(2).chunks_of((np.zeros(3), np.zeros((4, 3))))


def test_chunks_need_an_array():
    with pytest.raises(ConfigurationError, match="has no array"):
        Chunking(2).chunks_of({"scale": 2.0})


@pytest.mark.parametrize(
    "texts",
    [["a", "b", "c"], ("a", "b", "c"), [1, 2, 3], [0.5, 1.5, 2.5], [b"a", b"b", b"c"], [[1, 2], [3], [4, 5, 6, 7]]],
    ids=["list of texts", "tuple of texts", "whole numbers", "numbers", "bytes", "lists of numbers"],
)
@pytest.mark.parametrize(
    "nest",
    [lambda x, texts: (x, texts), lambda x, texts: {"x": x, "nested": {"texts": texts}}, Sample],
    ids=["tuple", "dict", "dataclass"],
)
def test_a_list_with_something_for_each_sample_is_refused_instead_of_being_in_every_chunk(nest, texts):
    with pytest.raises(ConfigurationError, match=r"can't be cut .* something for each sample.*chunkable_batch_wrapper"):
        Chunking(2).chunks_of(nest(np.zeros((3, 2)), texts))


@pytest.mark.parametrize("size", [0, -1, 1.5, "2", True])
@pytest.mark.parametrize("name", ["batch_chunk_size", "gradient_accumulation_steps"])
def test_sizes_and_steps_are_whole_numbers_of_at_least_one(name, size):
    with pytest.raises(ConfigurationError, match=f"{name} must be a whole number of at least 1, not {size!r}"):
        Chunking(**{name: size})


def test_a_wrapper_must_be_a_function_and_have_something_to_do():
    with pytest.raises(ConfigurationError, match="chunkable_batch_wrapper must be a function, not 3"):
        Chunking(2, chunkable_batch_wrapper=3)
    with pytest.raises(ConfigurationError, match="chunkable_batch_wrapper is used with batch_chunk_size only"):
        Chunking(gradient_accumulation_steps=2, chunkable_batch_wrapper=OnTheSecondAxis)


@pytest.mark.parametrize(
    ("options", "is_needed"),
    [
        ({}, False),
        ({"gradient_accumulation_steps": 1}, False),
        ({"gradient_accumulation_steps": 2}, True),
        ({"batch_chunk_size": 1}, True),
    ],
    ids=str,
)
def test_cutting_is_needed_where_a_batch_may_have_several_chunks(options, is_needed):
    assert Chunking(**options).is_needed is is_needed


# What a wrapper cuts, and groups.


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6])
def test_a_wrapper_cuts_what_has_its_samples_on_another_axis(size):
    batch = np.arange(10).reshape(2, 5)
    chunks = Chunking(size, chunkable_batch_wrapper=OnTheSecondAxis).chunks_of(batch)

    assert [chunk.shape[1] for chunk in chunks] == [size] * (5 // size) + [5 % size] * (5 % size > 0)
    assert np.array_equal(np.concatenate(chunks, axis=1), batch)


def test_each_batch_of_a_group_is_cut_for_itself():
    group = Group([np.arange(3), np.arange(2), np.arange(4)])

    assert as_lists(Chunking(2, 3).chunks_of(group)) == [[0, 1], [2], [0, 1], [0, 1], [2, 3]]
    turned = Group(np.stack([batch, batch]) for batch in group)
    chunks = Chunking(3, 3, OnTheSecondAxis).chunks_of(turned)
    assert as_lists([chunk[0] for chunk in chunks]) == [[0, 1, 2], [0, 1], [0, 1, 2], [3]]


def test_without_a_chunk_size_the_batches_of_a_group_are_the_chunks():
    group = Group([{"x": np.arange(3)}, ["no", "arrays"], None])
    chunks = Chunking(gradient_accumulation_steps=3).chunks_of(group)

    assert [chunk is batch for chunk, batch in zip(chunks, group, strict=True)] == [True] * 3


def test_a_tuple_of_arrays_is_a_batch_and_no_group():
    assert as_lists(Chunking(2).chunks_of((np.arange(3), np.arange(3)))) == [([0, 1], [0, 1]), ([2], [2])]


def test_a_group_stays_a_group_where_its_leaves_are_mapped():
    mapped = map_leaves(lambda leaf: leaf + 1, Group([(1, 2), (3, 4)]))

    assert type(mapped) is Group
    assert mapped == ((2, 3), (4, 5))


# What is put together.


def test_arrays_are_joined_along_their_first_axis_in_any_nesting():
    trees = [{"x": np.full((n, 2), n), "pair": Pair(np.arange(n), (np.arange(n),))} for n in (2, 1, 3)]
    whole = joined(trees, np.concatenate)

    assert whole["x"].tolist() == [[2, 2], [2, 2], [1, 1], [3, 3], [3, 3], [3, 3]]
    assert type(whole["pair"]) is Pair
    assert whole["pair"].x.tolist() == whole["pair"].y[0].tolist() == [0, 1, 0, 0, 1, 2]


@pytest.mark.parametrize(
    "nest",
    [
        lambda x: (x, x + 10),
        lambda x: [x, x + 10],
        lambda x: [x, [x + 10]],
        lambda x: Words([x, x + 10]),
        lambda x: {"x": x, "y": x + 10},
        lambda x: OrderedDict(x=x, y=x + 10),
        lambda x: UserDict(x=x, y=x + 10),
        lambda x: Pair(x, x + 10),
        lambda x: Sample(x, x + 10),
        lambda x: Sample(x),
        lambda x: [Sample({"x": [x]}), (x, "the same")],
    ],
    ids=[
        *("tuple", "list", "list in a list", "list of its own kind", "dict", "OrderedDict", "UserDict"),
        *("namedtuple", "dataclass", "dataclass with a text", "all of them"),
    ],
)
def test_what_is_cut_and_joined_is_the_batch_again(nest):
    batch = nest(np.arange(5))
    whole = joined(Chunking(2).chunks_of(batch), np.concatenate)

    assert type(whole) is type(batch)
    assert as_lists(whole) == as_lists(batch)


# An array in each tuple and list: one of texts alone may have something for each sample.
nestings = st.recursive(
    st.sampled_from(["array", "matrix", "text", None]),
    lambda inner: st.one_of(
        st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
        st.lists(inner, max_size=3).map(lambda items: ("array", *items)),
        st.lists(inner, max_size=3).map(lambda items: [*items, "matrix"]),
        inner.map(lambda item: Pair("array", item)),
        inner.map(lambda item: Sample("matrix", item)),
    ),
    max_leaves=6,
)


@given(nesting=nestings, length=st.integers(1, 7), size=st.integers(1, 8))
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_any_nesting_that_is_cut_and_joined_is_itself_again(nesting, length, size):
    arrays = {"array": np.arange(length), "matrix": np.arange(2 * length).reshape(length, 2)}
    batch = (arrays["array"], map_leaves(lambda leaf: arrays.get(leaf, leaf), nesting))
    chunks = Chunking(size).chunks_of(batch)

    assert [len(chunk[0]) for chunk in chunks] == [size] * (length // size) + [length % size] * (length % size > 0)
    assert as_lists(joined(chunks, np.concatenate)) == as_lists(batch)


def test_lists_of_what_is_no_array_are_one_after_the_other():
    assert joined([["a", "b"], ["c"]], np.concatenate) == ["a", "b", "c"]
    assert joined([{"n": [[1, 2], [3]]}, {"n": [[4]]}], np.concatenate) == {"n": [[1, 2], [3], [4]]}


@pytest.mark.parametrize("kind", [list, tuple])
def test_an_array_for_each_sample_is_one_after_the_other_where_a_batch_has_fewer_samples(kind):
    """As images of any size, of which the last batch of an epoch has fewer."""
    images = [np.full((2, 3), 0.0), np.full((4, 1), 1.0), np.full((2, 2), 2.0)]
    whole = joined([kind(images[:2]), kind(images[2:])], np.concatenate)

    assert as_lists(whole) == as_lists(kind(images))


def test_arrays_that_differ_in_another_axis_are_a_list():
    padded = [np.zeros((2, 3)), np.ones((2, 5))]
    whole = joined([{"texts": array, "y": np.arange(2)} for array in padded], np.concatenate)

    assert as_lists(whole) == {"texts": [array.tolist() for array in padded], "y": [0, 1, 0, 1]}


def test_arrays_are_a_list_where_one_of_them_has_no_axis():
    """As of a model that squeezes its predictions, and whose last chunk has one sample."""
    assert as_lists(joined([np.array([1.0, 2.0]), np.array(3.0)], np.concatenate, mean)) == [[1.0, 2.0], 3.0]


def test_numbers_and_scalar_arrays_are_made_one_by_the_function_for_them():
    trees = [{"mean": np.array(1.0), "n": 1, "rate": 0.5}, {"mean": np.array(4.0), "n": 2, "rate": 0.5}]

    assert joined(trees, np.concatenate, mean) == {"mean": 2.5, "n": 1.5, "rate": 0.5}


def test_without_it_numbers_that_are_the_same_stay_and_others_are_a_list():
    trees = [{"mean": np.array(1.0), "n": 1, "rate": 0.5}, {"mean": np.array(4.0), "n": 2, "rate": 0.5}]

    assert as_lists(joined(trees, np.concatenate)) == {"mean": [1.0, 4.0], "n": [1, 2], "rate": 0.5}


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (["a", "a"], "a"),
        (["a", "b"], ["a", "b"]),
        ([None, None], None),
        ([True, True], True),
        ([True, False], [True, False]),
    ],
    ids=str,
)
def test_whatever_else_stays_where_it_is_the_same_and_is_a_list_where_it_isnt(parts, expected):
    assert joined(parts, np.concatenate, mean) == expected


def test_one_part_is_itself():
    tree = {"x": np.arange(3), "names": ["a"], "n": 3}

    assert joined([tree], np.concatenate, mean) is tree
