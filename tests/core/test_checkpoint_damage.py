"""Every damaged, foreign or malicious file is refused, quickly and with one kind of error."""

import contextlib
import hashlib
import json
import os
import time

import numpy as np
import pytest

from mlpug import checkpoints
from mlpug.errors import CheckpointDamagedError, CheckpointNotFoundError

STATE = {"model": {"weight": np.arange(5, dtype=np.float32), "bias": np.array(1.5)}, "epoch": 3, "loss": float("inf")}


@pytest.fixture
def path(tmp_path):
    checkpoints.save(tmp_path / "state.safetensors", STATE, {"kind": "training"})
    return tmp_path / "state.safetensors"


def assert_refused(path, match="."):
    for read in (checkpoints.load, checkpoints.verify):
        started = time.process_time()  # other programs may be busy
        with pytest.raises(CheckpointDamagedError, match=match) as raised:
            read(path)
        assert str(path) in str(raised.value)
        assert time.process_time() - started < 1


def test_any_flipped_bit_is_found(path):
    content = path.read_bytes()
    bits = np.random.default_rng(0).integers(0, 8, len(content))
    for position, bit in enumerate(bits):
        damaged = bytearray(content)
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
        assert_refused(path)


@pytest.mark.parametrize("position", [0, 3, 7, 8, 30, 70, -1])
def test_every_bit_of_a_byte_counts(path, position):
    content = path.read_bytes()
    for bit in range(8):
        damaged = bytearray(content)
        damaged[position] ^= 1 << bit
        path.write_bytes(damaged)
        assert_refused(path)


def test_a_file_cut_short_anywhere_is_found(path):
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert_refused(path)


def test_what_is_appended_is_found(path):
    with path.open("ab") as file:
        file.write(b"\0")

    assert_refused(path, "its data has 29 bytes where its header says 28: there are more")


def test_damage_in_a_late_block_names_the_tensor(tmp_path):
    path = tmp_path / "state.safetensors"
    checkpoints.save(path, {"small": np.zeros(3), "large": np.zeros(3 * 2**20, np.uint8)})
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\1")

    assert_refused(path, "its tensor 'large' is damaged")


def test_data_of_two_tensors_cannot_change_places(tmp_path):
    path = tmp_path / "state.safetensors"
    checkpoints.save(path, {"a": np.zeros(8, np.uint8), "b": np.ones(8, np.uint8)})
    content = path.read_bytes()
    path.write_bytes(content[:-16] + content[-8:] + content[-16:-8])

    assert_refused(path, "its tensor 'a' is damaged")


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 7, b"\0" * 8, b"\0" * 100, b"\xff" * 100, b"PK\x03\x04" + b"\0" * 500, b"text\n" * 50],
    ids=["empty", "7 zeros", "8 zeros", "100 zeros", "100 ones", "zip", "text"],
)
def test_what_was_never_a_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "other").write_bytes(content)

    assert_refused(tmp_path / "other")


def test_random_bytes_after_a_plausible_length_are_refused(tmp_path):
    random = np.random.default_rng(0)
    for _ in range(50):
        (tmp_path / "other").write_bytes((100).to_bytes(8, "little") + random.bytes(200))
        assert_refused(tmp_path / "other")


def test_a_header_cannot_be_larger_than_the_limit(tmp_path):
    with (tmp_path / "sparse").open("wb") as file:
        file.write((100_000_001).to_bytes(8, "little") + b'{"')
        file.truncate(200_000_000)

    assert_refused(tmp_path / "sparse", "at most 100000000 are allowed")


# What a file says when somebody made it by hand, digests and all.


def signed(header_text):
    """The header with its own digest in its place, by the description of the format."""
    text = header_text + b" " * (-len(header_text) % 8)
    length = len(text).to_bytes(8, "little")
    digest = hashlib.sha256(length + text).hexdigest().encode()
    return length + text.replace(b'"mlpug.header":"' + b"0" * 64, b'"mlpug.header":"' + digest, 1)


def forged(state="{}", tensors=None, data=b"", description="{}", digests=None, extra="", version=1):
    """A checkpoint file in which all that isn't given is right for what is."""
    tensors = {} if tensors is None else tensors
    if digests is None:
        digests = json.dumps({name: tensor_digest(name, tensor, data) for name, tensor in tensors.items()})
    metadata = {
        "mlpug.format": str(version),
        "mlpug.header": "0" * 64,
        "mlpug.state": state,
        "mlpug.description": description,
        "mlpug.digests": digests,
    }
    text = json.dumps({"__metadata__": metadata} | tensors, separators=(",", ":"))
    return signed((text[:-1] + extra + "}").encode()) + data


def tensor_digest(name, tensor, data):
    try:
        start, stop = tensor["data_offsets"]
        block = hashlib.sha256(data[start:stop]).digest() if stop > start else b""
        identity = json.dumps([name, tensor["dtype"], tensor["shape"]]).encode()
        return hashlib.sha256(identity + block).hexdigest()
    except (TypeError, ValueError, KeyError):
        return "0" * 64


def tensor(start=0, stop=8, dtype="U8", shape=(8,)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


DATA = bytes(range(8))
USES_X = '{"x":{"$tensor":"x"}}'


def test_what_is_forged_well_is_read(tmp_path):
    (tmp_path / "forged").write_bytes(forged(USES_X, {"x": tensor()}, DATA))

    assert checkpoints.load(tmp_path / "forged")["x"].tolist() == list(DATA)


FORGED = {
    "newer": (forged(version=2), "format version 2 and this mlpug reads version 1. Update mlpug"),
    "older": (forged(version=0), "doesn't start as mlpug's do"),
    "no tensor": (forged(USES_X), "needs the tensor 'x' once more"),
    "tensor twice": (forged('{"x":[{"$tensor":"x"},{"$tensor":"x"}]}', {"x": tensor()}, DATA), "once more"),
    "unused": (forged("{}", {"x": tensor()}, DATA), "which its state doesn't use"),
    "gap": (forged(USES_X, {"x": tensor(1, 8, shape=(7,))}, DATA), "should take bytes 0 to 7"),
    "overlap": (
        forged('[{"$tensor":"x"},{"$tensor":"y"}]', {"x": tensor(), "y": tensor(4, 12)}, DATA + DATA[:4]),
        "isn't an object|should take",
    ),
    "shape of other size": (forged(USES_X, {"x": tensor(shape=(9,))}, DATA), "should take bytes 0 to 9"),
    "beyond the end": (forged(USES_X, {"x": tensor(0, 2**40, shape=(2**40,))}, DATA), "are missing"),
    "overflow to 0": (forged(USES_X, {"x": tensor(0, 0, shape=(2**32, 2**32))}), "doesn't write"),
    "overflow to 8": (forged(USES_X, {"x": tensor(shape=(2**61, 2**61, 8, 8))}, DATA), "doesn't write"),
    "too large for numpy": (forged(USES_X, {"x": tensor(0, 0, shape=(2**62, 2**62, 0))}), "doesn't write"),
    "negative size": (forged(USES_X, {"x": tensor(shape=(-8,))}, DATA), "doesn't write"),
    "negative sizes": (forged(USES_X, {"x": tensor(shape=(-2, -4))}, DATA), "doesn't write"),
    "size true": (forged(USES_X, {"x": tensor(shape=(True, 8))}, DATA), "doesn't write"),
    "size 8.0": (forged(USES_X, {"x": tensor(shape=(8.0,))}, DATA), "doesn't write"),
    "100 axes": (forged(USES_X, {"x": tensor(shape=(1,) * 100 + (8,))}, DATA), "doesn't write"),
    "a hundred thousand axes": (forged(USES_X, {"x": tensor(shape=(2**62,) * 10**5)}, DATA), "doesn't write"),
    "unknown type": (forged(USES_X, {"x": tensor(dtype="U3")}, DATA), "doesn't write"),
    "type is a list": (forged(USES_X, {"x": tensor(dtype=[])}, DATA), "doesn't write"),
    "three offsets": (forged(USES_X, {"x": {"dtype": "U8", "shape": [8], "data_offsets": [0, 4, 8]}}, DATA), "write"),
    "no offsets": (forged(USES_X, {"x": {"dtype": "U8", "shape": [8]}}, DATA), "doesn't write"),
    "tensor is text": (forged(USES_X, {"x": "tensor"}, DATA), "doesn't write"),
    "not complex": (forged('{"x":{"$complex":"x"}}', {"x": tensor()}, DATA), "isn't made of complex numbers"),
    "no digest": (forged(USES_X, {"x": tensor()}, DATA, digests="{}"), "a digest for each tensor"),
    "wrong digest": (forged(USES_X, {"x": tensor()}, DATA, digests=json.dumps({"x": "0" * 64})), "is damaged"),
    "digest is a number": (forged(USES_X, {"x": tensor()}, DATA, digests='{"x":1}'), "doesn't write"),
    "digests are a list": (forged(USES_X, {"x": tensor()}, DATA, digests="[]"), "a digest for each tensor"),
    "state is a list": (forged("[]"), "isn't an object"),
    "state is a tensor": (forged('{"$tensor":"x"}', {"x": tensor()}, DATA), "isn't an object"),
    "state is a number": (forged('{"$int":"1f"}'), "isn't an object"),
    "state isn't JSON": (forged("{"), "isn't the JSON"),
    "state isn't ASCII": (forged('{"é":1}'), "isn't the JSON"),
    "state with half a pair": (forged('{"\ud800":1}'), "isn't the JSON"),
    "state is deep": (forged("[" * 10**6 + "]" * 10**6), "1000000 levels deep"),
    "state has brackets in text": (forged('{"a":"' + "[{" * 10**6), "isn't the JSON"),
    "state with quotes": (forged('{"a":"' + '\\"' * 10**6), "isn't the JSON"),
    "state with a key twice": (forged('{"a":1,"a":2}'), "a key is there twice"),
    "state with NaN": (forged('{"a":NaN}'), "NaN isn't JSON"),
    "state with a huge number": (forged('{"a":1' + "0" * 10**6 + "}"), "a number of more than 32 characters"),
    "state with a long float": (forged('{"a":1.' + "0" * 10**6 + "}"), "a number of more than 32 characters"),
    "state with a strange placeholder": (forged('{"a":{"$import":"os"}}'), "isn't one that mlpug writes"),
    "state with a bad float": (forged('{"a":{"$float":"7ff8"}}'), "can't be read"),
    "state with a bad int": (forged('{"a":{"$int":"0x"}}'), "can't be read"),
    "state with a bad text": (forged('{"a":{"$text":"ff"}}'), "can't be read"),
    "state with a list for a name": (forged('{"a":{"$tensor":["x"]}}'), "not by text"),
    "name twice": (
        forged(USES_X, {"x": tensor()}, DATA, extra=',"x":' + json.dumps(tensor())),
        "a key is there twice",
    ),
    "header is deep": (forged(extra=',"x":' + "[" * 10**5 + "]" * 10**5), "levels deep"),
    "header ends early": (signed(b'{"__metadata__":{"mlpug.format":"1","mlpug.header":"' + b"0" * 64), "isn't the"),
    "metadata isn't text": (
        signed(b'{"__metadata__":{"mlpug.format":"1","mlpug.header":"' + b"0" * 64 + b'","mlpug.state":{}}}'),
        "lacks one of",
    ),
    "foreign": (signed(b'{"x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'), "not an mlpug checkpoint"),
    "foreign and deep": (signed(b"[" * 10**6), "never was a checkpoint"),
}


@pytest.mark.parametrize(("content", "match"), FORGED.values(), ids=FORGED.keys())
def test_what_is_forged_badly_is_refused(tmp_path, content, match):
    (tmp_path / "forged").write_bytes(content)

    assert_refused(tmp_path / "forged", match)
    with contextlib.suppress(CheckpointDamagedError):  # it reads less, and may find nothing wrong
        checkpoints.describe(tmp_path / "forged")


@pytest.mark.parametrize("description", [USES_X, "[]", "3", '{"$float":"7ff8000000000000"}', '{"$tensor":"x"}'])
def test_a_description_is_an_object_without_tensors(tmp_path, description):
    (tmp_path / "forged").write_bytes(forged(USES_X, {"x": tensor()}, DATA, description=description))
    match = r"its description (has a|isn't an object)"

    with pytest.raises(CheckpointDamagedError, match=match):
        checkpoints.describe(tmp_path / "forged")
    assert_refused(tmp_path / "forged", match)


def test_names_are_only_names(tmp_path):
    names = ["../../etc/passwd", "/etc/passwd", "C:\\con", "__import__('os')"]
    state = "{" + ",".join(f'"{i}":{{"$tensor":{json.dumps(name)}}}' for i, name in enumerate(names)) + "}"
    tensors = {name: tensor(2 * i, 2 * i + 2, shape=(2,)) for i, name in enumerate(names)}
    (tmp_path / "forged").write_bytes(forged(state, tensors, DATA))

    assert [array.tolist() for array in checkpoints.load(tmp_path / "forged").values()] == [
        [0, 1],
        [2, 3],
        [4, 5],
        [6, 7],
    ]


def test_what_is_no_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe")

    assert_refused(tmp_path, "it is a directory, not a file")
    assert_refused(tmp_path / "pipe", "it is a pipe, a device or a socket, not a file")
    assert_refused("/dev/zero", "it is a pipe, a device or a socket, not a file")


@pytest.mark.parametrize("read", [checkpoints.load, checkpoints.verify, checkpoints.describe])
@pytest.mark.parametrize("name", ["missing", "file/missing", "zero\0byte", "dangling"])
def test_a_missing_file_is_not_a_damaged_one(tmp_path, read, name):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")

    with pytest.raises(CheckpointNotFoundError, match="There is no checkpoint") as raised:
        read(tmp_path / name)
    assert raised.value.errno == 2
