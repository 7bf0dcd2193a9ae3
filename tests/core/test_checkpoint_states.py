"""What is saved comes back: every kind of value and array, and nothing that wouldn't."""

import enum
import math
import struct
import tracemalloc
from collections import OrderedDict

import ml_dtypes
import numpy as np
import pytest

from mlpug import checkpoints
from mlpug.checkpoints import RawTensor
from mlpug.errors import StateError


@pytest.fixture
def round_trip(tmp_path):
    def saved_and_loaded(state):
        checkpoints.save(tmp_path / "state.safetensors", state)
        return checkpoints.load(tmp_path / "state.safetensors")

    return saved_and_loaded


def difference(one, other, path=""):
    """Where two states differ, down to the bits, the types and the order of keys; None where they don't."""
    if type(one) is not type(other):
        return f"{path}: {type(one)} is not {type(other)}"
    if isinstance(one, dict):
        if list(one) != list(other):
            return f"{path}: keys {list(one)} are not {list(other)}"
        return next((found for key in one if (found := difference(one[key], other[key], f"{path}/{key}"))), None)
    if isinstance(one, list):
        if len(one) != len(other):
            return f"{path}: {len(one)} items are not {len(other)}"
        pairs = enumerate(zip(one, other, strict=True))
        return next((found for index, pair in pairs if (found := difference(*pair, f"{path}/{index}"))), None)
    if isinstance(one, np.ndarray):
        native = one.astype(one.dtype.newbyteorder("="))
        is_same = (native.dtype, one.shape, native.tobytes()) == (other.dtype, other.shape, other.tobytes())
    elif isinstance(one, float):
        is_same = struct.pack("d", one) == struct.pack("d", other)
    else:
        is_same = one == other
    return None if is_same else f"{path}: {one!r} is not {other!r}"


KEYS = [
    "a",
    "",
    "/",
    "~",
    "~1",
    "a/b",
    "0",
    "$",
    "$tensor",
    "$$tensor",
    "$x6e",
    "__metadata__",
    "..",
    "é✓",
    "\ud83d",
    '"\\',
]
DTYPES = ["?", "i1", "<i2", ">i2", "i4", "i8", "u1", "u2", "u4", ">u8", "f2", "f4", ">f4", "f8", "c8", "c16", ">c16"]


def random_array(random):
    dtype = np.dtype(str(random.choice(DTYPES)))
    shape = tuple(int(size) for size in random.integers(0, 4, random.integers(0, 4)))
    count = math.prod(shape) * dtype.itemsize
    data = random.integers(0, 2 if dtype.kind == "b" else 256, count, np.uint8)  # NaNs of all kinds among them
    array = data.view(dtype).reshape(shape)
    return array[::-1].T if array.ndim > 1 and random.random() < 0.5 else array


def random_value(random, depth):
    kind = random.integers(0, 3 if depth else 2)
    if kind == 2:
        values = [random_value(random, depth - 1) for _ in range(random.integers(0, 5))]
        if random.random() < 0.4:
            return values
        keys = random.permutation(KEYS)
        return {str(key): value for key, value in zip(keys, values, strict=False)}
    if kind == 1:
        return random_array(random)
    plain = [None, True, 0, -1, 2**53, -(2**53), 10**400, -(10**5000), 0.1, -0.0, 5e-324, math.inf, -math.inf, math.nan]
    return (plain + KEYS)[random.integers(0, len(plain) + len(KEYS))]


@pytest.mark.parametrize("seed", range(60))
def test_random_trees_come_back_as_they_were(round_trip, seed):
    random = np.random.default_rng(seed)
    state = {str(key): random_value(random, 4) for key in random.permutation(KEYS)[:6]}

    assert difference(state, round_trip(state)) is None


@pytest.mark.parametrize("key", KEYS)
def test_any_text_can_be_a_key_and_a_value(round_trip, key):
    state = {key: {key: np.arange(3), "other": key}, "list": [{key: [key]}]}

    assert difference(state, round_trip(state)) is None


@pytest.mark.parametrize("name", ["$tensor", "$raw", "$complex", "$float", "$int", "$text", "$x", "$"])
@pytest.mark.parametrize("value", ["model/weight", "7ff8000000000000", "1f", 3, None, []])
def test_a_dict_that_looks_like_a_placeholder_comes_back(round_trip, name, value):
    state = {"model": {"weight": np.arange(3)}, "looks": {name: value}}

    assert difference(state, round_trip(state)) is None


def test_names_that_could_be_mixed_up_are_not(round_trip):
    state = {"a/b": np.array(1), "a": {"b": np.array(2)}, "a~1b": np.array(3), "x": [np.array(4), {"0": np.array(5)}]}

    assert difference(state, round_trip(state)) is None


def test_every_nan_keeps_its_bits(round_trip):
    (nan,) = struct.unpack(">d", bytes.fromhex("fff80000deadbeef"))

    assert struct.pack(">d", round_trip({"nan": nan})["nan"]).hex() == "fff80000deadbeef"


def test_an_array_of_many_blocks_comes_back(round_trip):
    array = np.random.default_rng(0).integers(0, 256, 5 * 2**20 + 3, np.uint8)
    transposed = np.arange(3 * 2**19, dtype=np.float64).reshape(3, -1).T

    loaded = round_trip({"array": array, "transposed": transposed})

    assert np.array_equal(loaded["array"], array)
    assert np.array_equal(loaded["transposed"], transposed)


def test_thousands_of_small_arrays_come_back(round_trip):
    state = {"layers": [np.full((2, 2), index) for index in range(3000)]}

    assert difference(state, round_trip(state)) is None


def test_a_read_only_array_can_be_saved_and_what_is_loaded_can_be_written_to(round_trip):
    array = np.arange(4)
    array.flags.writeable = False

    loaded = round_trip({"array": array, "scalar": np.array(1.0), "empty": np.zeros((0, 2))})

    assert all(value.flags.writeable and value.flags.owndata for value in loaded.values())


BFLOAT16 = RawTensor("BF16", (2, 1), np.array([0x80, 0x3F, 0x00, 0x40], np.uint8))


def test_raw_tensors_come_back_also_of_types_that_numpy_has(round_trip):
    as_bytes = RawTensor("F32", (1,), np.array([1.5], "<f4").view(np.uint8))
    empty = RawTensor("F8_E4M3", (0, 3), np.zeros(0, np.uint8))

    loaded = round_trip({"bfloat16": BFLOAT16, "float32": as_bytes, "empty": empty})

    assert loaded == {"bfloat16": BFLOAT16, "float32": as_bytes, "empty": empty}
    assert loaded["bfloat16"].data.flags.writeable


def test_raw_tensors_are_equal_when_all_of_them_is():
    assert RawTensor("BF16", (2, 1), BFLOAT16.data.copy()) == BFLOAT16
    assert RawTensor("F16", (2, 1), BFLOAT16.data) != BFLOAT16
    assert RawTensor("BF16", (1, 2), BFLOAT16.data) != BFLOAT16
    assert RawTensor("BF16", (2, 1), BFLOAT16.data[::-1]) != BFLOAT16
    assert BFLOAT16 != "BF16"


def test_numbers_of_ml_dtypes_come_back_as_raw_tensors(round_trip):
    values = [1.0, -2.5, 0.0]
    kinds = ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"]
    state = {kind: np.array(values, getattr(ml_dtypes, kind)) for kind in kinds}

    loaded = round_trip(state)

    for kind, tensor in loaded.items():
        assert tensor.data.view(getattr(ml_dtypes, kind)).astype(float).tolist() == values
    assert [tensor.dtype for tensor in loaded.values()] == ["BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"]


class Color(enum.IntEnum):
    RED = 1


class Kept(list):
    """A list that knows more."""


NOT_HELD = {
    "tuple": (1, 2),
    "set": {1},
    "bytes": b"bytes",
    "complex": 1j,
    "object": object(),
    "function": len,
    "int64": np.int64(1),
    "float64": np.float64(1.0),  # a float too, and not one when it comes back
    "str_": np.str_("text"),
    "IntEnum": Color.RED,
    "OrderedDict": OrderedDict(a=1),
    "list of its own": Kept([1]),
    "masked array": np.ma.masked_array([1, 2], [True, False]),
    "object array": np.array([None]),
    "text array": np.array(["text"]),
    "dates": np.array(["2020-01-01"], "M8[D]"),
    "records": np.zeros(2, [("x", "f4")]),
    "long double": np.zeros(2, np.longdouble),
    "raw of unknown type": RawTensor("F128", (1,), np.zeros(16, np.uint8)),
    "raw of wrong size": RawTensor("BF16", (3,), np.zeros(4, np.uint8)),
    "raw of wrong bytes": RawTensor("BF16", (1,), np.zeros(1, np.uint16)),
    "raw of wrong shape": RawTensor("BF16", [1], np.zeros(2, np.uint8)),
    "raw of too many axes": RawTensor("BF16", (1,) * 66, np.zeros(2, np.uint8)),
}


@pytest.mark.parametrize("value", NOT_HELD.values(), ids=NOT_HELD.keys())
def test_what_would_not_come_back_is_refused_with_its_path_before_anything_is_written(tmp_path, value):
    path = tmp_path / "state.safetensors"

    with pytest.raises(StateError, match=r"^The state at 'callbacks/1/best' ") as raised:
        checkpoints.save(path, {"epoch": 1, "callbacks": [{}, {"best": value}]})

    assert type(value).__name__ in str(raised.value) or str(getattr(value, "dtype", "?")) in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", [1, None, b"a", ("a",), np.str_("a")])
def test_keys_are_text(tmp_path, key):
    with pytest.raises(StateError, match="The state at 'model' has the key"):
        checkpoints.save(tmp_path / "state.safetensors", {"model": {key: 1}})


@pytest.mark.parametrize("state", [None, [1], 3, np.zeros(3), OrderedDict()])
def test_a_state_is_a_dict(tmp_path, state):
    with pytest.raises(StateError, match="The state must be a dict, not a"):
        checkpoints.save(tmp_path / "state.safetensors", state)


def test_a_state_that_contains_itself_is_refused(tmp_path):
    state = {"model": {"parts": []}}
    state["model"]["parts"].append(state["model"])

    with pytest.raises(StateError, match="'model/parts/0' is a dict that contains itself"):
        checkpoints.save(tmp_path / "state.safetensors", state)


def test_the_same_object_in_two_places_is_fine(round_trip):
    shared = [np.arange(2)]

    assert difference({"a": shared, "b": shared}, round_trip({"a": shared, "b": shared})) is None


def nested(depth):
    state = {"bottom": np.arange(2), "inf": math.inf}
    for _ in range(depth - 1):
        state = {"deeper": state}
    return state


def test_how_deep_a_state_may_be_is_the_same_for_saving_and_loading(round_trip):
    assert difference(nested(100), round_trip(nested(100))) is None
    with pytest.raises(StateError, match="more than 100 dicts and lists deep"):
        round_trip(nested(101))
    with pytest.raises(StateError, match="more than 100 dicts and lists deep"):
        round_trip(nested(100_000))


def test_more_json_than_a_header_can_hold_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("mlpug.checkpoints.header.MAX_HEADER_LENGTH", 2000)

    with pytest.raises(StateError, match="Make long lists of numbers numpy arrays"):
        checkpoints.save(tmp_path / "state.safetensors", {"history": [1.5] * 1000})
    assert list(tmp_path.iterdir()) == []


def test_a_description_is_checked_like_a_state_and_has_no_arrays(tmp_path):
    path = tmp_path / "state.safetensors"
    checkpoints.save(path, {}, {"kind": "training", "metrics": {"loss": math.nan}, "$int": 2**70})

    found = checkpoints.describe(path).description

    assert difference({"kind": "training", "metrics": {"loss": math.nan}, "$int": 2**70}, found) is None
    with pytest.raises(StateError, match="The description at 'loss' is an array"):
        checkpoints.save(path, {}, {"loss": np.zeros(1)})
    with pytest.raises(StateError, match=r"The description at 'loss' is a numpy\.float32"):
        checkpoints.save(path, {}, {"loss": np.float32(1)})


def test_saving_and_verifying_need_no_second_copy_of_the_state(tmp_path):
    state = {"model": [np.zeros(2**24, np.uint8) for _ in range(4)]}  # 64 MB
    path = tmp_path / "state.safetensors"

    tracemalloc.start()
    try:
        checkpoints.save(path, state)
        saving = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        checkpoints.verify(path)
        verifying = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert saving < 2**20
    assert verifying < 20 * 2**20


def test_as_many_axes_as_numpy_has_come_back(round_trip):
    state = {"float": np.ones((1,) * 30 + (2,)), "complex": np.ones((1,) * 30 + (2,), complex)}

    assert difference(state, round_trip(state)) is None
