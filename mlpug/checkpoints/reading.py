"""Reading checkpoint files, of which nothing is believed before it is verified."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from io import FileIO
from itertools import cycle, islice
from pathlib import Path
from threading import Lock
from typing import Any, NoReturn

import numpy as np

from mlpug.checkpoints import header
from mlpug.checkpoints.digests import (
    BLOCK_SIZE,
    MAX_UNDER_WAY,
    blocks_of,
    computed,
    digest,
    num_blocks,
    tensor_digest,
)
from mlpug.checkpoints.files import PathLike, opened
from mlpug.checkpoints.header import Entry, Header
from mlpug.checkpoints.parsing import MalformedError
from mlpug.checkpoints.states import restore
from mlpug.checkpoints.tensors import Array, Bytes, RawTensor, empty
from mlpug.errors import CheckpointDamagedError, CheckpointError


@dataclass(frozen=True, slots=True)
class Description:
    """What a checkpoint says about itself, without its tensors.

    >>> import tempfile
    >>> from mlpug import checkpoints
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = f"{directory}/latest.safetensors"
    ...     checkpoints.save(path, {"epoch": 3}, {"kind": "training", "global_iter": 1200})
    ...     description = checkpoints.describe(path)
    >>> description.description
    {'kind': 'training', 'global_iter': 1200}
    """

    path: Path
    size: int  # bytes
    format_version: int
    description: dict[str, Any]  # as it was given to `save`
    tensors: dict[str, tuple[str, tuple[int, ...]]]  # name: (dtype, shape), in the order of the file


def load(path: PathLike) -> dict[str, Any]:
    """The state that was saved, after each byte of the file was verified.

    Arrays are new and can be written to. Where numpy doesn't have their type of numbers (bfloat16, float8), they are
    `RawTensor`s. Nothing that the file says is executed, imported, or used as a path.

    Raises:
        CheckpointNotFoundError: There is no such file.
        CheckpointDamagedError: It isn't, byte for byte, what was written, or it is no checkpoint of mlpug.
        CheckpointError: The file can't be opened.

    >>> import numpy as np, tempfile
    >>> from mlpug import checkpoints
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     checkpoints.save(f"{directory}/latest.safetensors", {"weights": [np.arange(3)], "best": float("inf")})
    ...     checkpoints.load(f"{directory}/latest.safetensors")
    {'weights': [array([0, 1, 2])], 'best': inf}
    """
    with _reading(path) as (file, found):
        memory: dict[str, Bytes] = {}

        def array(entry: Entry, kind: str) -> Array | RawTensor:
            value, memory[entry.name] = empty(entry.dtype, entry.shape, kind == "$complex", kind == "$raw")
            return value

        state = _restored(found, array)
        _verify(file, found, (block for entry in found.entries for block in blocks_of(memory[entry.name])))
        return state


def verify(path: PathLike) -> None:
    """Read all of the file as `load` does, and keep nothing of it.

    Raises:
        CheckpointNotFoundError: There is no such file.
        CheckpointDamagedError: It isn't, byte for byte, what was written, or it is no checkpoint of mlpug.
        CheckpointError: The file can't be opened.

    >>> import pathlib, tempfile
    >>> from mlpug import checkpoints
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = pathlib.Path(directory, "latest.safetensors")
    ...     checkpoints.save(path, {"epoch": 3})
    ...     checkpoints.verify(path)
    ...     path.write_bytes(path.read_bytes()[:-1])
    ...     checkpoints.verify(path)
    Traceback (most recent call last):
    mlpug.errors.CheckpointDamagedError: ...latest.safetensors is not a whole checkpoint: ...
    """
    with _reading(path) as (file, found):
        _restored(found, lambda *_: None)
        _verify(file, found, _scratch(found.entries))


def describe(path: PathLike) -> Description:
    """What the checkpoint says about itself; only the header is read, and verified.

    Raises:
        CheckpointNotFoundError: There is no such file.
        CheckpointDamagedError: Its header isn't, byte for byte, what was written, or it is no checkpoint of mlpug.
        CheckpointError: The file can't be opened.

    >>> import numpy as np, tempfile
    >>> from mlpug import checkpoints
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     path = f"{directory}/latest.safetensors"
    ...     checkpoints.save(path, {"model": {"bias": np.zeros(3, np.float32)}})
    ...     checkpoints.describe(path).tensors
    {'model/bias': ('F32', (3,))}
    """
    with _reading(path) as (file, found):
        return Description(
            path=Path(path),
            size=os.fstat(file.fileno()).st_size,
            format_version=header.FORMAT_VERSION,
            description=_description(found),
            tensors={entry.name: (entry.dtype, entry.shape) for entry in found.entries},
        )


@contextlib.contextmanager
def _reading(path: PathLike) -> Iterator[tuple[FileIO, Header]]:
    """The file, at the start of its data, and its header; whatever turns out to be wrong names the path."""
    with opened(path) as file:
        try:
            size = os.fstat(file.fileno()).st_size
            length = header.header_length(file.read(header.LENGTH_SIZE), size)
            text = np.empty(length, np.uint8)
            _fill(file.readinto, text)
            _check_is_on_disk(file)
            yield file, header.decoded(text.tobytes(), size - header.LENGTH_SIZE - length)
        except MemoryError as error:
            raise CheckpointError(
                f"{os.fspath(path)} can't be read: it says that it holds {size} bytes, and there isn't memory for what "
                "it holds. Read it on a machine with more of it."
            ) from error
        except (MalformedError, OSError) as error:
            problem = (
                str(error) if isinstance(error, MalformedError) else f"it can't be read ({error.strerror or error})"
            )
            raise CheckpointDamagedError(
                f"{os.fspath(path)} is not a whole checkpoint: {problem}. Use another checkpoint of the run."
            ) from error


def _check_is_on_disk(file: FileIO) -> None:
    """Refuse a huge file of holes, which would take hours to read.

    A disk that compresses may hold less than the file has, but not so much less: weights that were trained are noise.
    """
    status = os.fstat(file.fileno())
    on_disk = 512 * getattr(status, "st_blocks", 0)  # 0 where the file system doesn't say
    if status.st_size > _HUGE and 0 < on_disk < status.st_size // 1000:
        raise MalformedError(f"it claims {status.st_size} bytes, of which {on_disk} are on the disk: the rest is holes")


_HUGE = 1 << 36  # bytes


def _restored(found: Header, make: Callable[[Entry, str], Any]) -> dict[str, Any]:
    """The state, with what is made for each tensor in its place."""
    _description(found)  # only checked
    unused = {entry.name: entry for entry in found.entries}

    def tensor(kind: str, name: str) -> Any:
        entry = unused.pop(name, None)
        if entry is None:
            raise MalformedError(f"its state needs the tensor {name[:200]!r} once more than the file has it")
        if kind == "$complex" and (entry.dtype != "F64" or entry.shape[-1:] != (2,)):
            raise MalformedError(f"its tensor {name[:200]!r} isn't made of complex numbers")
        try:
            return make(entry, kind)
        except ValueError as error:
            raise MalformedError(f"its tensor {name[:200]!r} is too large for an array ({error})") from error

    state = restore(found.state, tensor)
    if not isinstance(state, dict):  # but what a placeholder stands for
        raise MalformedError("its state isn't an object")
    if unused:
        raise MalformedError(f"it has the tensor {min(unused)[:200]!r}, which its state doesn't use")
    return state


def _description(found: Header) -> dict[str, Any]:
    description = restore(found.description, _no_tensor)
    if not isinstance(description, dict):
        raise MalformedError("its description isn't an object")
    return description


def _no_tensor(kind: str, name: str) -> NoReturn:
    raise MalformedError(f"its description has a {kind}: {name[:200]!r}")


def _verify(file: FileIO, found: Header, blocks: Iterator[Bytes]) -> None:
    """Read all tensors into these blocks of memory, and compare their digests with what was written.

    A thread that reads a block also digests it, while that is in its processor's cache.
    """
    with closing(computed(_unread(file, blocks))) as of_blocks:
        for entry in found.entries:
            own = islice(of_blocks, num_blocks(entry.num_bytes))
            if tensor_digest(entry.name, entry.dtype, entry.shape, own) != entry.digest:
                raise MalformedError(f"its tensor {entry.name!r} is damaged: the digest isn't the one that was written")


def _unread(file: FileIO, blocks: Iterator[Bytes]) -> Iterator[tuple[Bytes, Callable[[], bytes]]]:
    """Each block, with what reads it from its place in the file and digests it."""
    place = file.tell()
    for block in blocks:
        yield block, partial(_read, file, block, place)
        place += len(block)


def _read(file: FileIO, block: Bytes, place: int) -> bytes:
    if _CAN_READ_ANYWHERE:
        _fill(lambda rest: os.preadv(file.fileno(), [rest], place + len(block) - len(rest)), block)
    else:
        with _one_reads:
            file.seek(place)
            _fill(file.readinto, block)
    return digest(block)


_CAN_READ_ANYWHERE = hasattr(os, "preadv")  # not on Windows
_one_reads = Lock()


def _scratch(entries: tuple[Entry, ...]) -> Iterator[Bytes]:
    """Memory for each block of each tensor, which is used again when a block's digest has been taken."""
    blocks = cycle([np.empty(BLOCK_SIZE, np.uint8) for _ in range(MAX_UNDER_WAY + 1)])
    for entry in entries:
        for start in range(0, entry.num_bytes, BLOCK_SIZE):
            yield next(blocks)[: entry.num_bytes - start]


def _fill(read: Callable[[memoryview], int | None], block: Bytes) -> None:
    """Read as many bytes as it has, also where the system gives only a part at a time."""
    rest = block.data
    while rest:
        count = read(rest)
        if not count:
            raise MalformedError("it ends too early: somebody cut it short while it was read")
        rest = rest[count:]
