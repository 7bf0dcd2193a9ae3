"""The first part of a checkpoint file: its length, and the JSON that says what is in the rest.

    8 bytes   the length of the header, little-endian
    header    JSON: {"__metadata__": {text: text}, name: {"dtype", "shape", "data_offsets"}, ...}, then spaces up to 8
    data      the tensors' bytes, one after the other without gaps

That is safetensors (https://huggingface.co/docs/safetensors); `__metadata__` holds the rest of the state, and digests.
Its first entries are the version and the digest of the header itself, at a fixed place: so the header can be checked,
all of it, before anything in it is parsed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlpug.checkpoints.digests import DIGEST_LENGTH, hex_digest
from mlpug.checkpoints.parsing import MalformedError, check_amount, parsed
from mlpug.checkpoints.states import MAX_DEPTH
from mlpug.checkpoints.tensors import ITEM_SIZES, Tensor, can_be, num_bytes

FORMAT_VERSION = 1
LENGTH_SIZE = 8  # bytes
ALIGNMENT = 8  # bytes
MAX_HEADER_LENGTH = 100_000_000  # bytes; what the safetensors library refuses to read beyond

_NO_DIGEST = "0" * DIGEST_LENGTH
_LEAST_PER_TENSOR = DIGEST_LENGTH + 80  # bytes: its entry, its digest, and its place in the state
_MAX_FOREIGN_LENGTH = 4_000_000  # bytes of a header without digests, which is parsed only to say what it may be
_START = b'{"__metadata__":{"mlpug.format":"%d","mlpug.header":"' % FORMAT_VERSION
_ANY_START = re.compile(rb'\{"__metadata__":\{"mlpug\.format":"(\d{1,9})"')
_METADATA_KEYS = ("mlpug.format", "mlpug.header", "mlpug.state", "mlpug.description", "mlpug.digests")


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor in a file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int  # bytes from the start of the data
    digest: str

    @property
    def num_bytes(self) -> int:
        return num_bytes(self.dtype, self.shape)


@dataclass(frozen=True, slots=True)
class Header:
    """What a header says, with everything checked that can be without the data."""

    length: int  # bytes, without the 8 that say so
    state: Any  # as `states.flatten` made it
    description: Any  # the same
    entries: tuple[Entry, ...]  # in the order of the data

    @property
    def data_start(self) -> int:
        return LENGTH_SIZE + self.length


def in_file_order(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The widest numbers first: so each tensor starts at a multiple of its item size, with no gaps between them."""
    return sorted(tensors, key=lambda tensor: -ITEM_SIZES[tensor.dtype])


def encoded(state: Any, description: Any, tensors: Sequence[Tensor], digests: Mapping[str, str] | None = None) -> bytes:
    """The bytes in front of the data. Without digests: as many bytes as there will be with them."""
    tensor_digests = {tensor.name: digests[tensor.name] if digests else _NO_DIGEST for tensor in tensors}
    header: dict[str, Any] = {
        "__metadata__": {
            "mlpug.format": str(FORMAT_VERSION),
            "mlpug.header": _NO_DIGEST,
            "mlpug.state": _json(state),
            "mlpug.description": _json(description),
            "mlpug.digests": _json(tensor_digests),
        }
    }
    start = 0
    for tensor in tensors:
        stop = start + tensor.num_bytes
        header[tensor.name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, stop]}
        start = stop
    text = _json(header).encode("ascii")
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(LENGTH_SIZE, "little") + _with_own_digest(text, _own_digest(text))


def header_length(start: bytes, file_size: int) -> int:
    """The length that the first 8 bytes give, if a header of that length can be in a file of that size.

    Raises:
        MalformedError: It can't.
    """
    if len(start) < LENGTH_SIZE:
        raise MalformedError(f"it has {file_size} bytes, fewer than any checkpoint")
    length = int.from_bytes(start, "little")
    if length > MAX_HEADER_LENGTH:
        raise MalformedError(
            f"its first 8 bytes give a header of {length} bytes, where at most {MAX_HEADER_LENGTH} are allowed: "
            "they are damaged, or this never was a checkpoint of mlpug"
        )
    if length > file_size - LENGTH_SIZE:
        raise MalformedError(
            f"its header should have {length} bytes and the whole file has {file_size}: it was cut short"
        )
    return length


def decoded(text: bytes, data_size: int) -> Header:
    """What the header says.

    Args:
        text: The header, without its length.
        data_size: Bytes that the file has after it.

    Raises:
        MalformedError: It isn't, byte for byte, what was written; or it is no checkpoint, or one of a newer mlpug.
    """
    _check_start(text)
    check_amount(text, "its header")
    num_tensors = text.count(b'"data_offsets"')
    if num_tensors * _LEAST_PER_TENSOR > len(text):
        raise MalformedError(f"it hasn't a digest for each of its {num_tensors} tensors, and a place in the state")
    if text[len(_START) :][:DIGEST_LENGTH] != _own_digest(text):
        raise MalformedError("its header is damaged: the digest isn't the one that was written")
    # From here on only a file that somebody made by hand can be wrong.
    header = parsed(text, "its header", MAX_DEPTH)
    metadata = header.pop("__metadata__")
    if not all(isinstance(metadata.get(key), str) for key in _METADATA_KEYS):
        raise MalformedError(f"its header lacks one of {', '.join(_METADATA_KEYS)}")
    # A placeholder is one level deeper than what it stands for.
    state = parsed(_bytes(metadata["mlpug.state"]), "its state", MAX_DEPTH + 1)
    description = parsed(_bytes(metadata["mlpug.description"]), "its description", MAX_DEPTH + 1)
    digests = parsed(_bytes(metadata["mlpug.digests"]), "its digests", 1)
    return Header(len(text), state, description, _entries(header, digests, data_size))


def _check_start(text: bytes) -> None:
    found = _ANY_START.match(text)
    if found and int(found[1]) > FORMAT_VERSION:
        raise MalformedError(
            f"it has format version {int(found[1])} and this mlpug reads version {FORMAT_VERSION}. Update mlpug to "
            "read it; if no newer mlpug wrote it, it is damaged"
        )
    if text.startswith(_START):
        return
    if b'"mlpug.' in text:
        raise MalformedError("its header is damaged: it doesn't start as mlpug's do")
    try:
        if len(text) > _MAX_FOREIGN_LENGTH:
            raise MalformedError("too long to be worth it")
        parsed(text, "its header", MAX_DEPTH)
    except MalformedError:
        raise MalformedError("its header is damaged, or it never was a checkpoint of mlpug") from None
    raise MalformedError(
        "it is a safetensors file, but not an mlpug checkpoint: it has no state and no digests of mlpug"
    )


def _entries(header: dict[str, Any], digests: Any, data_size: int) -> tuple[Entry, ...]:
    """In the order of the data, which they cover without gaps and overlaps."""
    if not isinstance(digests, dict) or digests.keys() != header.keys():
        raise MalformedError("it hasn't a digest for each tensor, and a tensor for each digest")
    found = [_entry(name, description, digests[name]) for name, description in header.items()]
    found.sort(key=lambda item: item[1:])
    position = 0
    for entry, start, stop in found:
        if (start, stop) != (position, position + entry.num_bytes):
            raise MalformedError(
                f"its tensor {entry.name!r} should take bytes {position} to {position + entry.num_bytes} of the data, "
                f"and its header says {start} to {stop}"
            )
        position = stop
    if position != data_size:
        problem = f"{position - data_size} are missing" if position > data_size else "there are more"
        raise MalformedError(f"its data has {data_size} bytes where its header says {position}: {problem}")
    return tuple(entry for entry, _, _ in found)


def _entry(name: str, description: Any, digest: Any) -> tuple[Entry, int, int]:
    match description:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(start), int(stop)]}:
            is_shape = all(type(size) is int and size >= 0 for size in shape)
            is_digest = isinstance(digest, str) and len(digest) == DIGEST_LENGTH
            if dtype in ITEM_SIZES and is_shape and can_be(tuple(shape), dtype) and is_digest:
                return Entry(name, dtype, tuple(shape), start, digest), start, stop
    raise MalformedError(f"its header says something about the tensor {name[:200]!r} that mlpug doesn't write")


def _own_digest(text: bytes) -> bytes:
    """Of the header with its length, as if its own digest were zeros."""
    length = len(text).to_bytes(LENGTH_SIZE, "little")
    return hex_digest(length, _with_own_digest(text, _NO_DIGEST.encode())).encode()


def _with_own_digest(text: bytes, digest: bytes) -> bytes:
    return b"".join((_START, digest, text[len(_START) + DIGEST_LENGTH :]))


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")  # what isn't ASCII is refused when it is parsed
