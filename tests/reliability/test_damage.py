"""Damage that nobody intended: bits that flip, blocks that get lost. None of it is ever loaded."""

import functools
import random

import pytest
from reliability.scenarios import content

from mlpug import checkpoints
from mlpug.errors import CheckpointDamagedError

NUM_DAMAGED = 3000
LENGTH = 8  # bytes of the file that say how long its header is
whole = functools.partial(content, "next")


def regions():
    """Where a file has what: (name, start, stop)."""
    size = len(whole())
    header = LENGTH + int.from_bytes(whole()[:LENGTH], "little")
    return {"length": (0, LENGTH), "header": (LENGTH, header), "tensors": (header, size), "all": (0, size)}


def _block(chance, start, stop):
    """A random piece: (start, stop)."""
    size = chance.randint(1, min(64, stop - start))
    first = chance.randint(start, stop - size)
    return first, first + size


def flip_bits(chance, data, start, stop):
    for _ in range(chance.choice((1, 1, 1, 2, 8))):
        data[chance.randrange(start, stop)] ^= 1 << chance.randrange(8)


def cut(chance, data, start, stop):
    del data[chance.randrange(start, stop) :]


def cut_out(chance, data, start, stop):
    first, last = _block(chance, start, stop)
    del data[first:last]


def zero(chance, data, start, stop):
    first, last = _block(chance, start, stop)
    data[first:last] = bytes(last - first)


def append(chance, data, start, stop):
    data += chance.choice((bytes, chance.randbytes))(chance.randint(1, 64))


def overwrite(chance, data, start, stop):
    first, last = _block(chance, start, stop)
    data[first:last] = chance.randbytes(last - first)


def swap(chance, data, start, stop):
    first, last = _block(chance, start, stop)
    other = chance.randint(start, stop - (last - first))
    one, two = data[first:last], data[other : other + last - first]
    data[first:last] = two
    data[other : other + last - first] = one


def repeat(chance, data, start, stop):
    first, last = _block(chance, start, stop)
    data[first:first] = data[first:last]


KINDS = [flip_bits, cut, cut_out, zero, append, overwrite, swap, repeat]


def damaged(seed):
    """The checkpoint with one damage, and what that was; never the checkpoint as it was."""
    chance = random.Random(seed)
    while True:
        kind, region = chance.choice(KINDS), chance.choice(list(regions()))
        data = bytearray(whole())
        kind(chance, data, *regions()[region])
        if bytes(data) != whole():
            return bytes(data), f"{kind.__name__} in {region}, seed {seed}"


def loads(path, how):
    """Whether a damaged file passes for a whole one; every other error than ours goes through."""
    try:
        how(path)
    except CheckpointDamagedError:
        return False
    return True


def test_the_whole_file_is_whole(tmp_path):
    path = tmp_path / "run"
    path.write_bytes(whole())

    assert loads(path, checkpoints.load)
    assert loads(path, checkpoints.verify)
    assert all(start < stop for start, stop in regions().values())


def test_no_random_damage_is_loaded(tmp_path, counts):
    path, loaded, verified = tmp_path / "run", [], []
    for seed in range(NUM_DAMAGED):
        data, what = damaged(seed)
        path.write_bytes(data)
        if loads(path, checkpoints.load):
            loaded.append(what)
        if seed % 5 == 0 and loads(path, checkpoints.verify):
            verified.append(what)
    counts["randomly damaged files"] += NUM_DAMAGED
    counts["randomly damaged files: loaded silently"] += len(loaded)

    assert loaded == []
    assert verified == []


def test_no_byte_may_be_another(tmp_path, counts):
    path, loaded = tmp_path / "run", []
    for place in range(len(whole())):
        data = bytearray(whole())
        data[place] ^= 1 << place % 8
        path.write_bytes(data)
        if loads(path, checkpoints.load):
            loaded.append(place)
    counts["files with one flipped bit, one for each byte"] += len(whole())
    counts["files with one flipped bit: loaded silently"] += len(loaded)

    assert loaded == []


@pytest.mark.parametrize("how", [checkpoints.load, checkpoints.verify])
def test_no_file_that_ends_early_is_loaded(tmp_path, counts, how):
    path = tmp_path / "run"
    loaded = []
    for length in range(0, len(whole()), 3):
        path.write_bytes(whole()[:length])
        if loads(path, how):
            loaded.append(length)
    counts["files that end early"] += len(range(0, len(whole()), 3))

    assert loaded == []


def test_a_description_is_never_read_from_a_damaged_header(tmp_path):
    path = tmp_path / "run"
    _, header_end = regions()["header"]
    for place in range(0, header_end, 5):
        data = bytearray(whole())
        data[place] ^= 1
        path.write_bytes(data)
        with pytest.raises(CheckpointDamagedError):
            checkpoints.describe(path)
