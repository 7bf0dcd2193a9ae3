"""Writing a state into a checkpoint file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from io import FileIO
from itertools import islice
from typing import Any

from mlpug.checkpoints import header
from mlpug.checkpoints.digests import blocks_of, computed, digest, num_blocks, tensor_digest
from mlpug.checkpoints.files import PathLike, delete, replacing, write_all
from mlpug.checkpoints.parsing import MalformedError, check_amount
from mlpug.checkpoints.states import flatten
from mlpug.checkpoints.temporary import new_name
from mlpug.checkpoints.tensors import Bytes, Tensor, as_bytes
from mlpug.errors import StateError

FLUSH_SIZE = 2 << 20  # bytes


def save(path: PathLike, state: Mapping[str, Any], description: Mapping[str, Any] | None = None) -> None:
    """Write a state to a checkpoint file, and return when it is safe on disk.

    The file is written beside its place and moved over an older one only when it is whole and flushed: whatever happens
    in between, the path has the older checkpoint or the new one. Nothing is written when the state can't be.

    Args:
        path: Where to; in a directory that exists. The name usually ends in `.safetensors`.
        state: A tree of dicts with text as keys, lists, bool, int, float, str, None, numpy arrays and `RawTensor`. It
            must not change until this returns.
        description: A few facts for `describe` to show, such as the kind of checkpoint and its metrics; no arrays.

    Raises:
        StateError: The state or the description holds something that a checkpoint can't.
        CheckpointWriteError: The file can't be written; an older one at the path is as it was.

    >>> import numpy as np, tempfile
    >>> from mlpug import checkpoints
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     checkpoints.save(f"{directory}/latest.safetensors", {"model": {"bias": np.zeros(2)}, "epoch": 3})
    ...     checkpoints.load(f"{directory}/latest.safetensors")
    {'model': {'bias': array([0., 0.])}, 'epoch': 3}
    """
    tree, unordered = flatten(state)
    description_tree, arrays = flatten({} if description is None else description, "description")
    if arrays:
        raise StateError(f"The description at '{arrays[0].name}' is an array. A description is text and numbers.")
    tensors = header.in_file_order(unordered)
    start = header.encoded(tree, description_tree, tensors)
    _check_can_be_read(start)
    data_start = len(start)
    with replacing(path) as file:
        file.seek(data_start)
        digests = _write(file, tensors)
        file.seek(0)
        write_all(file, header.encoded(tree, description_tree, tensors, digests))


def _check_can_be_read(start: bytes) -> None:
    """Refuse what would be refused when it is read."""
    if len(start) > header.MAX_HEADER_LENGTH:
        raise StateError(
            f"What the state holds beside arrays is {len(start)} bytes of JSON, and a checkpoint can hold "
            f"{header.MAX_HEADER_LENGTH}. Make long lists of numbers numpy arrays."
        )
    try:
        check_amount(start, "What the state holds beside arrays")
    except MalformedError as error:
        raise StateError(f"{error}. Make long lists of numbers numpy arrays.") from error


def try_to_save(path: PathLike) -> None:
    """Save something at another name beside the path, and remove it, to find out early whether that can be done.

    Where the process is killed in between, `remove_leftovers` takes what is left for what it is.

    Raises:
        CheckpointWriteError: It can't.

    >>> try_to_save("no-such-directory/latest.safetensors")
    Traceback (most recent call last):
    mlpug.errors.CheckpointWriteError: Can't write the checkpoint no-such-directory/.latest...: No such file ...
    """
    probe = new_name(os.fspath(path))
    save(probe, {})
    delete(probe)


def _write(file: FileIO, tensors: Iterable[Tensor]) -> dict[str, str]:
    """Write the tensors one after the other; their digests, which other threads compute meanwhile."""
    blocks = ((block, partial(digest, block)) for block in _written(file, tensors))
    with closing(computed(blocks)) as of_blocks:
        return {
            tensor.name: tensor_digest(
                tensor.name, tensor.dtype, tensor.shape, islice(of_blocks, num_blocks(tensor.num_bytes))
            )
            for tensor in tensors
        }


def _written(file: FileIO, tensors: Iterable[Tensor]) -> Iterator[Bytes]:
    """Each block after it was written. At most one tensor that isn't contiguous is copied at a time.

    The disk starts on what is written while the rest is, and while digests are computed, so that in the end there is
    little left to wait for. It is then flushed once more, so nothing depends on this but time.
    """
    with ThreadPoolExecutor(1, "mlpug-flush") as pool:  # starts its thread only for a file that is large enough
        flushing, since_flush = None, 0
        for tensor in tensors:
            for block in blocks_of(as_bytes(tensor.source)):
                write_all(file, block.data)
                since_flush += len(block)
                if since_flush >= FLUSH_SIZE and (flushing is None or flushing.done()):
                    if flushing is not None:
                        flushing.result()  # an error is told once, and not again by the last flush
                    flushing, since_flush = pool.submit(os.fsync, file.fileno()), 0
                yield block
        if flushing is not None:
            flushing.result()
