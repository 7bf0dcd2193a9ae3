"""Temporary files: named so that what a killed process left can be told from what a living one is writing."""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import secrets
from collections.abc import Iterator
from io import FileIO

try:
    import fcntl
except ImportError:  # on Windows, where a file that somebody has open can't be removed anyway
    fcntl = None  # type: ignore[assignment]

_MAX_STEM_LENGTH = 150  # bytes; with what is added it stays below the 255 that file systems allow
_NAME = re.compile(r"\.(?P<stem>.+)\.(?P<machine>[0-9a-f]{8})-(?P<pid>[0-9]{1,10})-[0-9a-f]{16}\.mlpug-tmp", re.DOTALL)


def new_name(target: str) -> str:
    """A path that nobody else uses, hidden, in the same directory; of a path that is one already, another like it.

    >>> new_name("/runs/latest.safetensors")
    '/runs/.latest.safetensors....mlpug-tmp'
    """
    directory, filename = os.path.split(target)
    match = _NAME.fullmatch(filename)
    filename = match["stem"] if match else filename
    name = f".{_stem(filename)}.{_machine()}-{os.getpid()}-{secrets.token_hex(8)}.mlpug-tmp"
    return os.path.join(directory, name)


@contextlib.contextmanager
def created_beside(target: str) -> Iterator[FileIO]:
    """A new file with a temporary name, for writing; its `name` is gone when this ends, unless it was moved away."""
    file = _created(target)
    try:
        yield file
    finally:
        # Closed before it is removed: Windows can't otherwise. What fails now matters less than the error that may be
        # under way; and where there is none, the file was flushed and moved away.
        with contextlib.suppress(OSError):
            file.close()
        with contextlib.suppress(OSError):
            os.unlink(file.name)


def abandoned(directory: str, base_filename: str) -> Iterator[str]:
    """Temporary files for targets whose name starts like that, and that no living process is writing."""
    with os.scandir(directory) as entries:
        for entry in entries:
            match = _NAME.fullmatch(entry.name)
            if not match or not match["stem"].startswith(_stem(base_filename)):
                continue
            is_file = entry.is_file(follow_symlinks=False)
            if is_file and _is_abandoned(entry.path, match["machine"], int(match["pid"])):
                yield entry.path


def _created(target: str) -> FileIO:
    while True:
        file = FileIO(new_name(target), "xb", opener=_open_as_others_do)
        _lock(file, wait=True)
        if os.name == "nt" or os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # removed as abandoned, in the moment before it was locked


def _open_as_others_do(path: str, flags: int) -> int:
    return os.open(path, flags, 0o666)  # less what the umask takes away, as every new file has


def _is_abandoned(path: str, machine: str, pid: int) -> bool:
    """Whether its process is gone.

    A pid alone can't tell: it may be in use again, by us too when a container has restarted, and on a shared disk it
    may be another machine's. So a file that is being written is locked as well, and the system unlocks it when the
    process is gone, whatever happened to it.
    """
    is_of_this_machine = machine == _machine()
    if is_of_this_machine and pid != os.getpid() and _is_alive(pid):
        return False
    with contextlib.suppress(OSError), open(path, "r+b", buffering=0) as file:
        is_locked = _lock(file, wait=False)
        return is_of_this_machine if is_locked is None else is_locked
    return False


def _lock(file: FileIO, wait: bool) -> bool | None:
    """Whether nobody else had it locked; None where files can't be locked."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_alive(pid: int) -> bool:
    if os.name == "nt":  # there os.kill ends the process, whatever the signal
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _machine() -> str:
    """Eight characters for the name of this machine."""
    return hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()


def _stem(filename: str) -> str:
    return os.fsdecode(os.fsencode(filename)[:_MAX_STEM_LENGTH])
