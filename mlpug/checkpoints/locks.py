"""A lock on the checkpoints of a run: while one run writes them, no other one does."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import re
import stat
import time
from pathlib import Path
from typing import Any
from weakref import WeakSet

from mlpug.checkpoints.files import translated
from mlpug.errors import CheckpointInUseError

try:
    import fcntl
except ImportError:  # on Windows, where there is no lock that ends with its process
    fcntl = None  # type: ignore[assignment]

_SECONDS_FOR_A_NAME = 0.2  # between taking the lock and writing who has it
_HOLDER = re.compile(r"process (?P<pid>[0-9]{1,10}) on host (?P<host>[^\n\0]{1,255})\n")


class RunLock:
    """A file that one run at a time has locked, and that says which one.

    The system unlocks it when the process ends, however it does, and processes that are forked from it don't have it:
    so a killed run may leave the file, but never the lock. Nothing is locked where that can't be done: on Windows, and
    on disks whose file system has no locks.

    Args:
        path: Of the file; it is removed when the lock is released.
        yields: Another run of the same process may take it: this one's end may be told to nobody.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     lock = RunLock(Path(directory, ".mnist.mlpug-lock"))
    ...     lock.acquire()
    ...     RunLock(Path(directory, ".mnist.mlpug-lock")).acquire()
    Traceback (most recent call last):
    mlpug.errors.CheckpointInUseError: Another run is writing the checkpoints of ...
    """

    def __init__(self, path: Path, yields: bool = False) -> None:
        self._path = path
        self._yields = yields
        self._descriptor: int | None = None
        _existing.add(self)

    def __del__(self) -> None:
        """A run that nobody knows any more has ended."""
        self.release()

    def __reduce__(self) -> Any:
        """A copy, or one that is pickled, holds nothing."""
        return RunLock, (self._path, self._yields)

    def acquire(self) -> None:
        """Take the lock, where it isn't held yet.

        Raises:
            CheckpointInUseError: Another run has it.
            CheckpointWriteError: The file can't be made.
        """
        for other in list(_existing):
            if other is not self and other._yields and other._path == self._path:
                other.release()
        is_settled = fcntl is None or self._descriptor is not None
        while not is_settled:
            with translated("lock", self._path, "No training has started."):
                is_settled = self._attempt()

    def release(self) -> None:
        """Let other runs have it; nothing where it isn't held."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        if _is_at(self._path, descriptor):
            _remove(self._path)  # before it is unlocked: else it could be the next one's
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a child that is being forked has it open for a moment
        with contextlib.suppress(OSError):
            os.close(descriptor)

    def forget(self) -> None:
        """In a process that was just forked: the lock is the parent's alone."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _attempt(self) -> bool:
        """Try to take it, and return whether there is nothing more to try."""
        self._descriptor, is_writable = _opened(self._path)
        is_held = False
        try:
            is_locked = _lock(self._descriptor)
            if is_locked is False:
                raise CheckpointInUseError(_in_use(self._path, self._descriptor))
            if is_locked is None:  # nor can others; an empty file was made just now
                if not os.fstat(self._descriptor).st_size:
                    _remove(self._path)
                return True
            if not is_writable:  # of another user's run, which was killed: it would go on naming that one
                _remove(self._path)
            is_held = _is_at(self._path, self._descriptor)
            if is_held and is_writable:
                _say_who_holds(self._descriptor)
            return is_held
        finally:
            if not is_held:
                self.forget()


def _opened(path: Path) -> tuple[int, bool]:
    """The file, made where it isn't there, and whether it can be written to."""
    kind = os.O_NOFOLLOW | os.O_NONBLOCK  # nothing that the name of a lock could lead to
    try:
        descriptor, is_writable = os.open(path, os.O_RDWR | os.O_CREAT | kind, 0o666), True
    except PermissionError:
        descriptor, is_writable = os.open(path, os.O_RDONLY | kind), False
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EISDIR, "It is a pipe, a device or a socket")
    return descriptor, is_writable


def _lock(descriptor: int) -> bool | None:
    """Whether nobody else had it locked; None where files can't be locked."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the file still has that name: whoever had it locked before has removed it."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    except OSError:
        return False


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # in a directory that only the owner may remove it from: it does no harm
        os.remove(path)


def _say_who_holds(descriptor: int) -> None:
    with contextlib.suppress(OSError):  # a full disk: it is locked all the same
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on host {platform.node()}\n".encode(), 0)


def _in_use(path: Path, descriptor: int) -> str:
    base = path.name.removeprefix(".").removesuffix(SUFFIX)
    end = time.monotonic() + _SECONDS_FOR_A_NAME
    while not (holder := _holder(descriptor)) and time.monotonic() < end:
        time.sleep(0.01)
    return (
        f"Another run is writing the checkpoints of {path.parent / base}: {holder or 'another process'} has locked "
        f"{path.name} there. Two runs would overwrite each other's files. Wait until it has ended, or end it; or give "
        "this run a base_checkpoint_filename or a directory of its own."
    )


def _holder(descriptor: int) -> str | None:
    text = os.pread(descriptor, 512, 0).decode("utf-8", "replace")
    found = _HOLDER.fullmatch(text)
    if not found:
        return None
    if found["host"] == platform.node() and int(found["pid"]) == os.getpid():
        return f"a training in this same process ({os.getpid()} on host {found['host']})"
    return f"process {int(found['pid'])} on host {found['host']!a}"


SUFFIX = ".mlpug-lock"

# What is called at forks is called for good: those that exist are asked then.
_existing: WeakSet[RunLock] = WeakSet()


def _forget_all() -> None:
    for lock in list(_existing):
        lock.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
