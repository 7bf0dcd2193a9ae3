"""What Keras's own callbacks had heard of when an error ended a run, and aren't told once more when it goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any


class HeardHalf:
    """Tells them of beginnings and ends, each once over a run and those that go on from it.

    What they remember is kept as it is where an error ends a run: one that counts batches has counted the one that
    failed in its step, or was looked for where there was none, and goes on from that.

    Args:
        key_of: what a callback is called in checkpoints.
    """

    def __init__(self, key_of: Callable[[Any], str | None]) -> None:
        self._key_of = key_of
        self._epoch_began: list[Any] = []  # the callbacks that have heard of it
        self._epoch_ended: list[Any] = []
        self._at_batch_begin: Sequence[Callable[..., None]] = ()
        self._num_at_batch_begin = 0  # of these hooks that were called
        self._before: dict[str, Any] = {}  # what the run that is resumed had told

    def go_on(self, state: Mapping[str, Any], num_batches: int) -> None:
        """Go on with what `get_state` gave, after so many batches of an epoch."""
        is_within = num_batches > 0 or bool(state.get("epoch_began"))  # else all have heard of the end of the epoch
        self._before = dict(state) if is_within else {}

    def get_state(self) -> dict[str, Any]:
        """Who was told of the epoch under way, and of the batch."""
        at_batch_begin = [_owner(hook) for hook in self._at_batch_begin[: self._num_at_batch_begin]]
        told = {"epoch_began": self._epoch_began, "batch_began": at_batch_begin, "epoch_ended": self._epoch_ended}
        return {event: [key for key in map(self._key_of, some) if key is not None] for event, some in told.items()}

    def begin_epoch(self, callback: Any, epoch: int) -> None:
        """Tell one of them that an epoch begins."""
        if not self._was_told("epoch_began", callback):
            callback.on_epoch_begin(epoch, {})
        self._epoch_began.append(callback)

    def begin_batch(self, hooks: Sequence[Callable[..., None]], batch: int) -> None:
        """Call their hooks for the beginning of a batch."""
        self._at_batch_begin, self._num_at_batch_begin = hooks, 0
        for hook in hooks:
            if not (self._before and self._was_told("batch_began", _owner(hook))):
                hook(batch, {})
            self._num_at_batch_begin += 1
        self._before.pop("batch_began", None)

    def end_batch(self) -> None:
        """They are about to hear that it ends."""
        self._epoch_began, self._num_at_batch_begin = [], 0

    def end_epoch(self, callback: Any, epoch: int, logs: Any) -> None:
        """Tell one of them that the epoch ends."""
        if not self._was_told("epoch_ended", callback):
            callback.on_epoch_end(epoch, logs)
        self._epoch_ended.append(callback)

    def epoch_ended(self) -> None:
        """All have heard of it."""
        self._before, self._epoch_ended = {}, []
        self.end_batch()

    def _was_told(self, event: str, callback: Any) -> bool:
        return bool(self._before) and self._key_of(callback) in self._before.get(event, ())


def _owner(hook: Any) -> Any:
    return getattr(hook, "__self__", None)
