"""Files that are there whole or not at all: written beside their place, flushed to disk, then moved over it."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from io import FileIO
from typing import TypeAlias, TypeVar

from mlpug.checkpoints import temporary
from mlpug.errors import CheckpointDamagedError, CheckpointError, CheckpointNotFoundError, CheckpointWriteError

PathLike: TypeAlias = str | os.PathLike[str]
OSErrorOfOurs = TypeVar("OSErrorOfOurs", CheckpointNotFoundError, CheckpointWriteError)

_COPY_SIZE = 4 << 20  # bytes
_CURES = {
    errno.ENOSPC: "Make room on that disk, or choose a directory on another one.",
    errno.EDQUOT: "Make room: your quota on that disk is used up. Or choose a directory on another one.",
    errno.EFBIG: "That disk can't hold files this large: choose a directory on another one.",
    errno.EACCES: "Choose a directory that this user may write to, or change its permissions.",
    errno.EPERM: "Choose a directory that this user may write to, or change its permissions.",
    errno.EROFS: "That disk is mounted for reading only: choose a directory on another one.",
    errno.ENOENT: "Make its directory first.",
    errno.ENOTDIR: "A part of the path is a file, not a directory: choose another path.",
    errno.EISDIR: "Choose the path of a file.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.ELOOP: "Its symbolic links lead in a circle: repair them, or choose another path.",
    errno.EIO: "The disk may be failing: choose a directory on another one.",
}


@contextlib.contextmanager
def replacing(path: PathLike) -> Iterator[FileIO]:
    """A file to write, which takes the place of the one at the path when all of it is on disk, and else never does.

    Where the path is a symbolic link, it stays one, and the file that it leads to is replaced.

    Raises:
        CheckpointWriteError: Writing it, or putting it in its place, failed.
    """
    with translated("write", path):
        target = _real_target(path)
        with temporary.created_beside(target) as file:
            yield file
            os.fsync(file.fileno())
            if os.name == "nt":  # where an open file can't be moved; elsewhere it stays locked until it is in place
                file.close()
            os.replace(file.name, target)
    _sync_directory(os.path.dirname(target), "write", path)


def write_all(file: FileIO, data: bytes | memoryview) -> None:
    """Write all of it, also where the system takes only a part at a time."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file.fileno(), rest) :]


@contextlib.contextmanager
def opened(path: PathLike) -> Iterator[FileIO]:
    """The file at the path, for reading.

    Raises:
        CheckpointNotFoundError: There is none.
        CheckpointDamagedError: It is a directory, or something else that isn't a file.
        CheckpointError: It can't be opened.
    """
    name = os.fspath(path)
    try:
        kind = os.stat(name).st_mode
        if not stat.S_ISREG(kind):
            what = "a directory" if stat.S_ISDIR(kind) else "a pipe, a device or a socket"
            raise CheckpointDamagedError(f"{name} is not a checkpoint: it is {what}, not a file. Give a file's path.")
        file = FileIO(name, opener=_open_without_waiting)
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a zero byte in the path
        if isinstance(error, CheckpointDamagedError):
            raise
        message = f"There is no checkpoint {name}. Check the path, and whether training has saved one."
        raise _with_errno(CheckpointNotFoundError(message), errno.ENOENT) from error
    except OSError as error:
        raise CheckpointError(
            f"Can't open the checkpoint {name}: {error.strerror or error}. Check that this user may read it."
        ) from error
    try:
        yield file
    finally:
        with contextlib.suppress(OSError):  # what was read is verified, and an error that is under way matters more
            file.close()


def copy(source: PathLike, target: PathLike) -> None:
    """Give a checkpoint a second name, in place of what is there; the two don't change with each other.

    Takes no time and no room where the file system can link them: neither file is ever written to again, only replaced.

    Raises:
        CheckpointNotFoundError: There is no source.
        CheckpointWriteError: The target can't be written; an older one is as it was.

    >>> import tempfile
    >>> from mlpug import checkpoints
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     checkpoints.save(f"{directory}/latest.safetensors", {"epoch": 3})
    ...     checkpoints.copy(f"{directory}/latest.safetensors", f"{directory}/best.safetensors")
    ...     checkpoints.save(f"{directory}/latest.safetensors", {"epoch": 4})
    ...     checkpoints.load(f"{directory}/best.safetensors")
    {'epoch': 3}
    """
    with opened(source) as file:
        if _is_same(file, target):  # perhaps by a copy of which only the last step failed
            _sync_directory(os.path.dirname(os.path.realpath(target)), "write", target)
            return
        if _link(file, source, target):
            return
        with replacing(target) as copied:
            while data := file.read(_COPY_SIZE):
                write_all(copied, data)


def delete(path: PathLike) -> None:
    """Remove a checkpoint for good, also if the power fails right after; no file at the path is fine.

    Raises:
        CheckpointWriteError: It can't be removed.

    >>> from mlpug import checkpoints
    >>> checkpoints.delete("no-such-checkpoint.safetensors")
    """
    with translated("delete", path), contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    directory = os.path.dirname(os.path.abspath(path))
    if os.path.isdir(directory):  # also where the file was gone: perhaps only this step failed the last time
        _sync_directory(directory, "delete", path)


def remove_leftovers(directory: PathLike, base_filename: str) -> None:
    """Remove temporary files of checkpoints that a killed process didn't finish.

    Args:
        directory: Where; no such directory is fine.
        base_filename: How the names of the checkpoints start.

    What a living process is writing stays, and so does every file that this library didn't name.

    Raises:
        CheckpointWriteError: One can't be removed.

    >>> from mlpug import checkpoints
    >>> checkpoints.remove_leftovers("no-such-directory", "my-model")
    """
    if not os.path.isdir(directory):
        return
    with translated("remove what is left of unfinished checkpoints in", directory):
        for path in temporary.abandoned(os.fspath(directory), base_filename):
            with contextlib.suppress(FileNotFoundError):  # another process removes them too
                os.unlink(path)


def _real_target(path: PathLike) -> str:
    """The path without symbolic links, if a file is there or can be."""
    with contextlib.suppress(FileNotFoundError):
        kind = os.stat(path).st_mode
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, "It is a directory")
        if not stat.S_ISREG(kind):  # such as /dev/null, which replacing would remove
            raise OSError(errno.EISDIR, "It is a pipe, a device or a socket")
    return os.path.realpath(path)


def _is_same(file: FileIO, target: PathLike) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(target))
    except OSError:
        return False


def _link(file: FileIO, source: PathLike, target: PathLike) -> bool:
    """Put a hard link to the open file in the target's place, where that can be had."""
    with translated("write", target):
        real_target = _real_target(target)
        name = temporary.new_name(real_target)
        try:
            os.link(os.path.realpath(source), name)
        except OSError:  # another disk, a file system without links, another user's file: a copy says what is wrong
            return False
        try:
            if not _is_same(file, name):  # the path has another file by now: what is open is copied
                return False
            if os.name != "nt":  # where only what is open for writing can be flushed
                os.fsync(file.fileno())
            os.replace(name, real_target)
        finally:
            # Also where it was moved: to move a name of a file over another one of the same file does nothing, and
            # another process may have put it there just now.
            with contextlib.suppress(OSError):
                os.unlink(name)
    _sync_directory(os.path.dirname(real_target), "write", target)
    return True


def _sync_directory(name: str, verb: str, path: PathLike) -> None:
    """Make the names in it as durable as the files."""
    if os.name == "nt":  # where a directory can't be opened
        return
    with translated(verb, path, "It is done, but might be undone if the power fails now."):
        directory = os.open(name, os.O_RDONLY)
        try:
            os.fsync(directory)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that have no such thing
                raise
        finally:
            os.close(directory)


@contextlib.contextmanager
def translated(verb: str, path: PathLike, state: str = "What was there before is untouched.") -> Iterator[None]:
    """Turn an OSError into ours."""
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        if isinstance(error, CheckpointError):
            raise
        code = error.errno if isinstance(error, OSError) else errno.EINVAL
        reason = (isinstance(error, OSError) and error.strerror) or str(error)
        cure = _CURES.get(code or 0, "")
        message = f"Can't {verb} the checkpoint {os.fspath(path)}: {reason}. {state} {cure}".rstrip()
        raise _with_errno(CheckpointWriteError(message), code) from error


def _with_errno(error: OSErrorOfOurs, code: int | None) -> OSErrorOfOurs:
    error.errno = code  # afterwards: given to the constructor, it would change the message
    return error


def _open_without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe would wait for a writer
