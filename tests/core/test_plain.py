"""What Python has beside dicts, lists, numbers and arrays, through a checkpoint's file and back."""

import collections
import datetime
import enum
import math
import pathlib
import random
import types

import numpy as np
import pytest

from mlpug import checkpoints
from mlpug.checkpoints import RawTensor
from mlpug.errors import CheckpointMismatchError, StateError
from mlpug.plain import from_plain, to_plain

NOON = datetime.datetime(2024, 2, 29, 12, 0, 30, 125)
OFFSET = datetime.timezone(datetime.timedelta(hours=-3, minutes=-30))

TREES = {
    "what stays": {"a": [1, 2.5, None, True, "text", {"b": []}], "c": 2**80},
    "tuples": (1, (2, ()), [(3,)]),
    "keys that are numbers": {0: "a", 1: {2: "b"}, -1: None},
    "keys of several types": {"a": 1, 2: 3, (4, "b"): 5, None: 6, 2.5: 7, True: 8},
    "sets": {"set": {3, 1, 2}, "frozen": frozenset({"a", ("b", 1)}), "mixed": {1, "1", None, (2,)}, "empty": set()},
    "deques": [collections.deque([1, (2,)], maxlen=5), collections.deque(["a"]), collections.deque(maxlen=0)],
    "numpy's numbers": [
        *(np.dtype(code).type(3) for code in ("u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8", "?")),
        np.int64(-(2**63)),
        np.uint64(2**64 - 1),
        np.float32(0.1),
        np.float32("-inf"),
        np.complex64(1.5 - 0.1j),
        np.complex128(complex(math.inf, -0.0)),
    ],
    "complex": [1j, complex(-0.0, math.inf)],
    "bytes": {"a": b"", "b": bytes(range(256))},
    "paths": [pathlib.Path("runs/1"), pathlib.Path("/"), pathlib.Path(".")],
    "dates": [NOON, NOON.replace(tzinfo=datetime.UTC), NOON.replace(tzinfo=OFFSET), datetime.date(1999, 12, 31)],
    "spans": [datetime.timedelta(days=-1, microseconds=1), datetime.timedelta.max],
    "dicts that look like marks": [
        {"__tuple__": [1]},
        {"__tuple__": {"__tuple__": (1,)}},
        {"__dict__": 5},
        {"__leaf__": None},
        {"__of_later__": 1},
        {"__tuple__": 1, "b": 2},
        {"__": 1},
        {"____": 1},
        {"$tensor": "a"},
    ],
    "random states": [random.Random(7).getstate(), np.random.RandomState(7).get_state()],
}


def through_a_file(tmp_path, tree, **leaf):
    checkpoints.save(tmp_path / "state.safetensors", {"tree": to_plain(tree, *leaf.get("to", ()))})
    return from_plain(checkpoints.load(tmp_path / "state.safetensors")["tree"], *leaf.get("back", ()))


def described(tree):
    """Value and exact type of everything, in a form in which -0.0 isn't 0.0."""
    kind = type(tree)
    if kind is dict:
        return kind, [(described(key), described(value)) for key, value in tree.items()]
    if kind in (set, frozenset):
        return kind, sorted(repr(described(item)) for item in tree)
    if kind is collections.deque:
        return kind, tree.maxlen, [described(item) for item in tree]
    if kind in (list, tuple):
        return kind, [described(item) for item in tree]
    return kind, repr(tree)


@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
def test_comes_back_as_it_was(tmp_path, tree):
    assert described(through_a_file(tmp_path, tree)) == described(tree)


def test_names_in_the_file_stay_clear():
    tree = {"model": {"weight": np.ones(2)}, "optimizer": {"betas": [0.9, 0.99]}}
    plain = to_plain(tree)
    assert plain == tree
    assert plain["model"]["weight"] is tree["model"]["weight"]  # not a copy
    assert from_plain(plain)["model"]["weight"] is tree["model"]["weight"]


def test_subclasses_of_dict_come_back_as_equal_dicts(tmp_path):
    tree = {
        "ordered": collections.OrderedDict(b=1, a=(2,)),
        "default": collections.defaultdict(list, {1: [2]}),
        "counter": collections.Counter("aab"),
    }
    back = through_a_file(tmp_path, tree)
    assert back == tree
    assert {type(value) for value in back.values()} == {dict}
    assert list(back["ordered"]) == ["b", "a"]


def test_nan_keeps_its_bits(tmp_path):
    nan = np.array([0x7FC00001], np.uint32).view(np.float32)
    (back,) = through_a_file(tmp_path, (nan[0],))
    assert np.array([back]).view(np.uint32)[0] == 0x7FC00001


def test_raw_tensors_and_arrays_stay_arrays(tmp_path):
    raw = RawTensor("BF16", (1,), np.array([0x80, 0x3F], np.uint8))
    back = through_a_file(tmp_path, {1: (raw, np.zeros((2, 0), np.int8), np.array(3.0), np.ones(2, np.complex128))})
    assert back[1][0] == raw
    assert [(array.dtype.name, array.shape) for array in back[1][1:]] == [
        ("int8", (2, 0)),
        ("float64", ()),
        ("complex128", (2,)),
    ]


def test_the_same_set_gives_the_same_plain_list():
    words = [f"word {number}" for number in range(50)]
    backwards = words[::-1]
    assert to_plain(set(words)) == to_plain(set(backwards)) == {"__set__": sorted(words)}


class Celsius:
    def __init__(self, degrees):
        self.degrees = degrees


def celsius_to_plain(value):
    return {"degrees": (value.degrees,)} if isinstance(value, Celsius) else NotImplemented


def test_a_leaf_makes_more_types_possible(tmp_path):
    tree = {"inside": [Celsius(1.5), {3: Celsius(None)}], "__leaf__": 1}
    leaf = {"to": [celsius_to_plain], "back": [lambda content: Celsius(*content["degrees"])]}
    back = through_a_file(tmp_path, tree, **leaf)
    assert back["inside"][0].degrees == 1.5
    assert back["inside"][1][3].degrees is None
    assert back["__leaf__"] == 1


def test_a_leaf_may_hold_leaves(tmp_path):
    def nested_to_plain(value):
        return [celsius_to_plain(value)] if isinstance(value, Celsius) else NotImplemented

    tree = Celsius(Celsius(2))
    back = through_a_file(
        tmp_path, {"t": tree}, to=[nested_to_plain], back=[lambda content: Celsius(*content[0]["degrees"])]
    )
    assert back["t"].degrees.degrees == 2


Point = collections.namedtuple("Point", "x y")


class Color(enum.IntEnum):
    RED = 1


def contains_itself():
    tree = {}
    tree["again"] = [tree]
    return tree


def nested(depth):
    tree = 1
    for _ in range(depth):
        tree = (tree,)
    return tree


@pytest.mark.parametrize(
    ("tree", "where", "what", "cure"),
    [
        ({"a": {"b": [1, print]}}, "'a/b/1'", "builtin_function_or_method", "dicts, lists"),
        ({"a": lambda: 1}, "'a'", "function", "no code"),
        ({"a": Celsius(1)}, "'a'", "Celsius", "numbers, text"),
        ({"a": Point(1, 2)}, "'a'", "Point", r"tuple\(value\)"),
        ({"a": (Color.RED,)}, "'a/0'", "Color", r"int\(value\)"),
        ({(1, 2): {"b": object()}}, r"'\(1, 2\)/b'", "object", "Make it"),
        ({1: {2: object()}}, "'1/2'", "object", "Make it"),
        ({"args": types.SimpleNamespace(a=1)}, "'args'", "types.SimpleNamespace", "Make it"),
        ({"a": np.array([object()])}, "'a'", "array of dtype object", "floats of at most 64 bits"),
        ({"a": np.array(["text"])}, "'a'", "array of dtype <U4", "floats of at most 64 bits"),
        ({"a": np.ma.ones(2)}, "'a'", "MaskedArray", "Make it an array"),
        ({"a": np.str_("b")}, "'a'", "numpy.str_", r"str\(value\)"),
        ({"a": np.datetime64("2020-01-01")}, "'a'", "datetime64", "Make it"),
        ({"a": bytearray(b"b")}, "'a'", "bytearray", "Make it"),
        ({"a": NOON.replace(tzinfo=type("Zone", (datetime.tzinfo,), {})())}, "'a'", "datetime", "astimezone"),
        (contains_itself(), "'again/0'", "contains itself", "leave that out"),
        ({"deep": nested(150)}, "'deep/0/0", "more than 100", "flatter"),
        (object(), "The state is", "object", "Make it"),
    ],
)
def test_says_what_can_not_be_held_and_where(tree, where, what, cure):
    with pytest.raises(StateError, match=f"{where}.*{what}.*{cure}"):
        to_plain(tree)


def test_the_path_starts_where_the_tree_is_in_the_state():
    with pytest.raises(StateError, match="The state at 'callbacks/0/a' is a "):
        to_plain({"a": Celsius(1)}, path=("callbacks", "0"))


def test_what_a_leaf_does_not_know_is_refused_too():
    with pytest.raises(StateError, match=r"'a/1' is an? .*object"):
        to_plain({"a": [Celsius(1), object()]}, celsius_to_plain)


@pytest.mark.parametrize(
    "hostile",
    [
        {"__of_later__": 1},
        {"__leaf__": 1},
        {"__tuple__": 5},
        {"__set__": [[1]]},
        {"__frozenset__": [{}]},
        {"__deque__": [[1], -1]},
        {"__deque__": []},
        {"__dict__": [[1]]},
        {"__dict__": {"a": 1}},
        {"__dict__": [[[1], 2]]},
        {"__numpy__": ["object", 1]},
        {"__numpy__": ["int8", 300]},
        {"__numpy__": ["float32", "text"]},
        {"__numpy__": 3},
        {"__complex__": ["1", 2]},
        {"__bytes__": "text"},
        {"__path__": 3},
        {"__datetime__": "yesterday"},
        {"__date__": 3},
        {"__timedelta__": [10**12, 0, 0]},
    ],
)
def test_what_to_plain_never_makes_is_refused(hostile):
    with pytest.raises(CheckpointMismatchError, match="__"):
        from_plain({"a": [hostile]})
