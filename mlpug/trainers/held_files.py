"""The checkpoints of a run are its own while it trains: another run that would write them is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlpug.callbacks.callback import Callback
from mlpug.checkpoints.locks import RunLock


class HeldFiles:
    """While entered, holds the names under which callbacks of a run write checkpoints.

    Args:
        callbacks: mlpug's own; those that have a ``lock_file`` write checkpoints.
        trainer: of the run; only its first process writes, and so only that one holds.
    """

    def __init__(self, callbacks: Sequence[Callback], trainer: Any) -> None:
        self._writers: list[Any] = [callback for callback in callbacks if hasattr(callback, "lock_file")]
        self._trainer = trainer
        self._locks: dict[Path, RunLock] = {}

    def __enter__(self) -> HeldFiles:
        self.hold()
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def hold(self, resumed_from: Path | None = None, yields: bool = False) -> None:
        """Hold what the run writes, if it goes on from that training checkpoint, and nothing else.

        Raises:
            CheckpointInUseError: another run holds it.
            CheckpointWriteError: the file that would say so can't be made.
        """
        if not self._writers or self._trainer.process.rank > 0:
            return
        wanted = {writer.lock_file(resumed_from) for writer in self._writers}
        for path in self._locks.keys() - wanted:
            self._locks.pop(path).release()
        for path in sorted(wanted - self._locks.keys()):
            lock = RunLock(path, yields)
            lock.acquire()
            self._locks[path] = lock

    def release(self) -> None:
        """Hold nothing any more."""
        while self._locks:
            self._locks.popitem()[1].release()
