"""The file is a safetensors file to an independent reader of that format, and the digests are what they say."""

import hashlib
import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from mlpug import checkpoints
from mlpug.checkpoints import RawTensor
from mlpug.errors import CheckpointDamagedError

STATE = {
    "model": {"mask": np.array([True, False, True]), "weight": np.arange(6.0).reshape(2, 3), "half": np.ones(3, "f2")},
    "list": [np.arange(3, dtype=np.int32), np.zeros((0, 2), np.uint16), np.array(7, np.int64)],
    "raw": RawTensor("BF16", (1,), np.array([0x80, 0x3F], np.uint8)),
    "epoch": 3,
}


@pytest.fixture
def path(tmp_path):
    checkpoints.save(tmp_path / "state.safetensors", STATE, {"kind": "training"})
    return tmp_path / "state.safetensors"


def parts(path):
    """The header's text, what it says, and the data, by the format's own description."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return content[8 : 8 + length], json.loads(content[8 : 8 + length]), content[8 + length :]


def test_the_layout_is_that_of_safetensors(path):
    text, header, data = parts(path)
    metadata = header.pop("__metadata__")

    assert text.startswith(b"{")
    assert len(text) % 8 == 0
    assert all(isinstance(value, str) for value in metadata.values())
    position = 0
    for tensor in header.values():
        start, stop = tensor["data_offsets"]
        assert start == position
        position = stop
    assert position == len(data)


def test_each_tensor_starts_at_a_multiple_of_its_item_size(path):
    _, header, _ = parts(path)
    sizes = {"BOOL": 1, "F16": 2, "BF16": 2, "U16": 2, "I32": 4, "F64": 8, "I64": 8}

    del header["__metadata__"]
    assert all(tensor["data_offsets"][0] % sizes[tensor["dtype"]] == 0 for tensor in header.values())


def test_names_say_where_in_the_state_a_tensor_is(path):
    _, header, data = parts(path)
    start, stop = header["model/weight"]["data_offsets"]

    assert header.keys() - {"__metadata__"} == {
        "model/mask", "model/weight", "model/half", "list/0", "list/1", "list/2", "raw",
    }  # fmt: skip
    assert header["model/weight"]["shape"] == [2, 3]
    assert data[start:stop] == np.arange(6.0).tobytes()


def test_the_digests_can_be_computed_by_anyone(tmp_path):
    path = tmp_path / "state.safetensors"
    array = np.random.default_rng(0).integers(0, 256, (2, 2**20 + 5), np.uint8)
    checkpoints.save(path, {"model": {"é": array}})
    text, header, data = parts(path)

    digest = hashlib.sha256(b'["model/\\u00e9", "U8", [2, 1048581]]')
    for start in range(0, len(data), 2**20):
        digest.update(hashlib.sha256(data[start : start + 2**20]).digest())
    own = header["__metadata__"]["mlpug.header"]
    unsigned = text.replace(own.encode(), b"0" * 64, 1)

    assert json.loads(header["__metadata__"]["mlpug.digests"]) == {"model/é": digest.hexdigest()}
    assert own == hashlib.sha256(len(text).to_bytes(8, "little") + unsigned).hexdigest()


def test_the_same_state_gives_the_same_file(tmp_path, path):
    checkpoints.save(tmp_path / "again.safetensors", STATE, {"kind": "training"})

    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()


def test_describe_shows_what_is_in_the_file_without_reading_the_data(path):
    size = path.stat().st_size
    with path.open("r+b") as file:  # damage in the data
        file.seek(size - 1)
        file.write(b"\xff")

    found = checkpoints.describe(path)

    assert (found.path, found.size, found.format_version) == (path, size, 1)
    assert found.description == {"kind": "training"}
    assert found.tensors["model/weight"] == ("F64", (2, 3))
    assert found.tensors["raw"] == ("BF16", (1,))
    assert len(found.tensors) == 7


def test_the_safetensors_library_opens_it(tmp_path):
    keys = ["a", "", "/", "~", "$tensor", "__metadata__", "..", "é✓", "\ud83d", '"\\']
    state = {key: {"complex": np.array([1 + 2j]), "array": np.arange(3)} for key in keys}
    state["__metadata__"] = np.array(5)
    checkpoints.save(tmp_path / "state.safetensors", state)

    loaded = load_file(tmp_path / "state.safetensors")

    assert len(loaded) == 2 * (len(keys) - 1) + 1
    assert loaded["~__metadata__"] == 5
    assert loaded["../array"].tolist() == [0, 1, 2]
    assert loaded["../complex"].tolist() == [[1, 2]]


def test_a_file_of_the_safetensors_library_is_not_a_checkpoint(tmp_path):
    from safetensors.numpy import save_file

    save_file({"weight": np.arange(3.0)}, tmp_path / "weights.safetensors", {"format": "pt"})

    with pytest.raises(CheckpointDamagedError, match="it is a safetensors file, but not an mlpug checkpoint"):
        checkpoints.load(tmp_path / "weights.safetensors")
