"""Digests of tensors, computed on a few threads while the thread that calls reads or writes."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256

from mlpug.checkpoints.tensors import Bytes

BLOCK_SIZE = 1 << 20  # bytes; a part of the format: the digest of a tensor is one over the digests of its blocks
DIGEST_LENGTH = 64  # characters

_SMALL = 1 << 16  # bytes; handing a block to another thread takes about as long as digesting this many
_NUM_THREADS = min(4, os.cpu_count() or 1)

MAX_UNDER_WAY = 4 * _NUM_THREADS  # blocks that are digested, or wait to be, at any time


def hex_digest(*parts: bytes) -> str:
    """Of all parts, one after the other.

    >>> hex_digest(b"ab", b"c") == hex_digest(b"abc"), len(hex_digest(b""))
    (True, 64)
    """
    digest = sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def tensor_digest(name: str, dtype: str, shape: tuple[int, ...], block_digests: Iterable[bytes]) -> str:
    """Covers what the tensor is as well as its bytes, so that two tensors can't change places."""
    identity = json.dumps([name, dtype, shape]).encode("ascii")
    return hex_digest(identity, *block_digests)


def blocks_of(data: Bytes) -> Iterator[Bytes]:
    """The bytes in blocks of `BLOCK_SIZE`, the last one shorter; none where there are no bytes."""
    for start in range(0, len(data), BLOCK_SIZE):
        yield data[start : start + BLOCK_SIZE]


def num_blocks(num_bytes: int) -> int:
    """How many blocks `blocks_of` makes of that many bytes."""
    return -(-num_bytes // BLOCK_SIZE)


def digest(block: Bytes) -> bytes:
    """Of one block."""
    return sha256(block.data).digest()


def computed(blocks: Iterable[tuple[Bytes, Callable[[], bytes]]]) -> Generator[bytes, None, None]:
    """The digest of each block, in order.

    A block is asked for while the ones before it are digested, at most `MAX_UNDER_WAY` of them: whoever gives blocks
    can use the memory of older ones again. The threads are ended when this is exhausted or closed.

    Args:
        blocks: each with what computes its digest, which is called on another thread where the block is large.
    """
    with ThreadPoolExecutor(_NUM_THREADS, "mlpug-digest") as pool:  # starts threads only when they are given work
        under_way: deque[Future[bytes] | bytes] = deque()
        for block, compute in blocks:
            under_way.append(compute() if len(block) <= _SMALL else pool.submit(compute))
            if len(under_way) == MAX_UNDER_WAY:
                yield _result(under_way.popleft())
        while under_way:
            yield _result(under_way.popleft())


def _result(digest: Future[bytes] | bytes) -> bytes:
    return digest if isinstance(digest, bytes) else digest.result()
