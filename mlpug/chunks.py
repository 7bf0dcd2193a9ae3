"""Batches that are computed in parts: what they are cut into."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from mlpug.errors import ConfigurationError, MlpugWarning
from mlpug.trees import children, leaves, map_leaves
from mlpug.validation import checked_count, checked_function


class ChunkableBatch(Protocol):
    """What a ``chunkable_batch_wrapper`` makes of a batch: as many samples as it says, and slices of them."""

    def __len__(self) -> int:
        """The number of samples."""

    def __getitem__(self, samples: slice) -> Any:
        """The batch of these samples, as the training model takes it."""


class Group(tuple[Any, ...]):
    """Batches of the dataset that make one batch together.

    >>> Group(["first", "second"])
    ('first', 'second')
    """


def group_of(batches: Iterable[Any]) -> Group | None:
    """Those of the dataset's batches that aren't None as a group; None where nothing is left.

    >>> group_of(["first", None]), group_of([None, None])
    (('first',), None)
    """
    return Group(batch for batch in batches if batch is not None) or None


def warn_of_none() -> None:
    """Say that a batch is None.

    >>> import warnings
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     warn_of_none()
    """
    warnings.warn(
        "The training dataset gave None for a batch, as a collate_fn does that drops all of its samples. Such batches "
        "are left out: nothing is trained on them, and callbacks don't hear of them, though they count in batch_step "
        "and global_iter. If that is on purpose, ignore this.",
        MlpugWarning,
        stacklevel=3,
    )


@dataclass(frozen=True, slots=True)
class Chunking:
    """How a batch is cut.

    Args:
        batch_chunk_size: at most so many samples in a chunk; None: each batch of the dataset is one chunk.
        gradient_accumulation_steps: how many batches of the dataset make one batch.
        chunkable_batch_wrapper: makes a `ChunkableBatch` of a batch that can't be cut by the first axis of its arrays.

    Raises:
        ConfigurationError: a number below 1, or a wrapper that can't be called or has nothing to do.

    >>> import numpy as np
    >>> [chunk.tolist() for chunk in Chunking(batch_chunk_size=2).chunks_of(np.arange(5))]
    [[0, 1], [2, 3], [4]]
    """

    batch_chunk_size: int | None = None
    gradient_accumulation_steps: int = 1
    chunkable_batch_wrapper: Callable[[Any], ChunkableBatch] | None = None

    def __post_init__(self) -> None:
        if self.batch_chunk_size is not None:
            checked_count("batch_chunk_size", self.batch_chunk_size)
        checked_count("gradient_accumulation_steps", self.gradient_accumulation_steps)
        checked_function("chunkable_batch_wrapper", self.chunkable_batch_wrapper)
        if self.chunkable_batch_wrapper is not None and self.batch_chunk_size is None:
            raise ConfigurationError("chunkable_batch_wrapper is used with batch_chunk_size only: set that too.")

    @property
    def is_needed(self) -> bool:
        """Whether a batch may have more than one chunk."""
        return self.batch_chunk_size is not None or self.gradient_accumulation_steps > 1

    def chunks_of(self, batch: Any) -> list[Any]:
        """The chunks of a batch, or of a group of them; slices are as cheap as the arrays' own.

        Raises:
            ConfigurationError: it can't be cut.
        """
        batches = batch if isinstance(batch, Group) else (batch,)
        return [chunk for part in batches for chunk in self._chunks_of(part)]

    def _chunks_of(self, batch: Any) -> Iterator[Any]:
        size = self.batch_chunk_size
        if size is None:
            yield batch
        elif self.chunkable_batch_wrapper is not None:
            chunkable = self.chunkable_batch_wrapper(batch)
            for start in range(0, len(chunkable), size):
                yield chunkable[start : start + size]
        else:
            length = _length_of(batch)
            if length <= size:
                yield batch
                return
            for start in range(0, length, size):
                yield map_leaves(_slicer(start, min(start + size, length)), batch)


def _length_of(batch: Any) -> int:
    lengths = {leaf.shape[0] for leaf in leaves(batch) if _has_axis(leaf)}
    if len(lengths) != 1:
        what = f"have {sorted(lengths)} samples" if lengths else "has no array"
        raise _cant_cut(f"its arrays {what}" if lengths else f"it {what}")
    (length,) = lengths
    _check_lists(batch, length)
    return int(length)


def _check_lists(tree: Any, length: int) -> None:
    """Refuse lists with something for each sample that isn't an array: it would be in every chunk as a whole."""
    is_list = isinstance(tree, (list, tuple)) and len(tree) == length > 1
    if is_list and not any(hasattr(leaf, "shape") for leaf in leaves(tree)):
        raise _cant_cut(f"it has a {type(tree).__name__} with something for each sample, such as {tree[0]!r}")
    for item in children(tree):
        _check_lists(item, length)


def _cant_cut(why: str) -> ConfigurationError:
    return ConfigurationError(
        f"The batch can't be cut into chunks along the first axis of its arrays: {why}. Give chunkable_batch_wrapper, "
        "a function that makes an object with __len__ and slicing of a batch, or leave out batch_chunk_size to process "
        "each batch whole."
    )


def _slicer(start: int, stop: int) -> Callable[[Any], Any]:
    return lambda leaf: leaf[start:stop] if _has_axis(leaf) else leaf


def _has_axis(leaf: Any) -> bool:
    return len(getattr(leaf, "shape", ())) > 0
