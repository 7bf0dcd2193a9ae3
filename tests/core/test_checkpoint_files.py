"""Files are there whole or not at all, keep their links and modes, and leave nothing behind."""

import contextlib
import errno
import os
import pathlib
import re
import signal
import stat
import subprocess
import sys

import numpy as np
import pytest

from mlpug import checkpoints
from mlpug.errors import CheckpointDamagedError, CheckpointNotFoundError, CheckpointWriteError, StateError

OLD = {"epoch": 1}
NEW = {"epoch": 2, "model": np.arange(100_000.0)}


@pytest.fixture
def path(tmp_path):
    checkpoints.save(tmp_path / "latest.safetensors", OLD)
    return tmp_path / "latest.safetensors"


def names_in(directory):
    return sorted(entry.name for entry in directory.iterdir())


def failing(call, code, after=0):
    """The call, which raises an OSError from the time on that it was called that often."""
    calls = []

    def fails(*arguments, **more):
        calls.append(arguments)
        if len(calls) > after:
            raise OSError(code, os.strerror(code))
        return call(*arguments, **more)

    return fails


FAILURES = {
    "no room at once": ("write", errno.ENOSPC, 0, "Make room on that disk"),
    "no room later": ("write", errno.ENOSPC, 1, "Make room on that disk"),
    "quota": ("write", errno.EDQUOT, 0, "quota"),
    "flushing fails": ("fsync", errno.EIO, 0, "The disk may be failing"),
    "no permission": ("open", errno.EACCES, 0, "change its permissions"),
    "read-only disk": ("open", errno.EROFS, 0, "mounted for reading only"),
    "moving fails": ("replace", errno.EACCES, 0, "change its permissions"),
    "something else": ("replace", errno.EBUSY, 0, "busy"),
}


@pytest.mark.parametrize(("call", "code", "after", "cure"), FAILURES.values(), ids=FAILURES.keys())
def test_when_writing_fails_the_old_checkpoint_is_untouched_and_nothing_is_left(
    path, monkeypatch, call, code, after, cure
):
    before = path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(getattr(os, call), code, after))
        with pytest.raises(CheckpointWriteError, match=cure) as raised:
            checkpoints.save(path, NEW)

    assert raised.value.errno == code
    assert isinstance(raised.value.__cause__, OSError)
    assert str(path) in str(raised.value)
    assert "What was there before is untouched." in str(raised.value)
    assert path.read_bytes() == before
    assert names_in(path.parent) == [path.name]


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_other_exceptions_pass_unchanged_and_leave_nothing(path, monkeypatch, error):
    def stop(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", stop)
        with pytest.raises(error):
            checkpoints.save(path, NEW)

    assert checkpoints.load(path) == OLD
    assert names_in(path.parent) == [path.name]


def test_the_error_is_not_hidden_when_cleaning_up_fails_too(path, monkeypatch):
    monkeypatch.setattr(os, "fsync", failing(os.fsync, errno.ENOSPC))
    monkeypatch.setattr(os, "unlink", failing(os.unlink, errno.EIO))

    with pytest.raises(CheckpointWriteError, match="Make room"):
        checkpoints.save(path, NEW)


def test_a_directory_that_cannot_be_flushed_is_said_with_the_truth_about_the_file(path, monkeypatch):
    monkeypatch.setattr(os, "fsync", failing(os.fsync, errno.EIO, after=1))

    with pytest.raises(CheckpointWriteError, match="It is done, but might be undone if the power fails now"):
        checkpoints.save(path, {"epoch": 2})
    assert checkpoints.load(path) == {"epoch": 2}


def test_a_file_system_that_flushes_no_directories_is_fine(path, monkeypatch):
    monkeypatch.setattr(os, "fsync", failing(os.fsync, errno.EINVAL, after=1))

    checkpoints.save(path, {"epoch": 2})

    assert checkpoints.load(path) == {"epoch": 2}


def test_the_file_is_flushed_before_it_is_moved_and_its_directory_after(path, monkeypatch):
    order = []
    fsync, replace = os.fsync, os.replace

    def flushing(file):
        order.append("flush directory" if stat.S_ISDIR(os.fstat(file).st_mode) else "flush file")
        fsync(file)

    def moving(*paths):
        order.append("move")
        replace(*paths)

    monkeypatch.setattr(os, "fsync", flushing)
    monkeypatch.setattr(os, "replace", moving)
    checkpoints.save(path, NEW)

    assert order == ["flush file", "move", "flush directory"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_an_error_that_only_an_early_flush_is_told_is_raised(path, monkeypatch, code):
    fsync, told = os.fsync, []

    def flushing(file):
        if not told:
            told.append(file)
            raise OSError(code, os.strerror(code))
        fsync(file)

    monkeypatch.setattr("mlpug.checkpoints.writing.FLUSH_SIZE", 1 << 20)
    monkeypatch.setattr(os, "fsync", flushing)
    with pytest.raises(CheckpointWriteError) as raised:
        checkpoints.save(path, {"model": np.zeros(4 << 20, np.uint8)})

    assert raised.value.errno == code
    assert checkpoints.load(path) == OLD
    assert names_in(path.parent) == [path.name]


def test_writes_that_take_only_a_part_are_continued(path, monkeypatch):
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, memoryview(data)[:1000]))

    checkpoints.save(path, NEW)

    assert np.array_equal(checkpoints.load(path)["model"], NEW["model"])


def test_a_symbolic_link_stays_and_the_file_it_leads_to_is_replaced(tmp_path, path):
    other = tmp_path / "other"
    other.mkdir()
    link = other / "link.safetensors"
    link.symlink_to("../latest.safetensors")

    checkpoints.save(link, {"epoch": 2})

    assert link.is_symlink()
    assert not path.is_symlink()
    assert checkpoints.load(path) == {"epoch": 2}
    assert names_in(other) == ["link.safetensors"]


def test_a_link_to_nothing_yet_leads_to_the_new_file(tmp_path):
    (tmp_path / "link").symlink_to("file")

    checkpoints.save(tmp_path / "link", OLD)

    assert (tmp_path / "link").is_symlink()
    assert checkpoints.load(tmp_path / "file") == OLD


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_the_mode_is_that_of_any_new_file(tmp_path, umask):
    before = os.umask(umask)
    try:
        checkpoints.save(tmp_path / "ours", OLD)
        (tmp_path / "plain").write_text("")
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_a_relative_path_and_a_long_name_are_fine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    long_name = "é" * 120 + ".safetensors"  # 251 bytes

    checkpoints.save("latest", OLD)
    checkpoints.save(long_name, NEW)
    checkpoints.copy("latest", long_name)
    checkpoints.delete("latest")

    assert names_in(tmp_path) == [long_name]
    assert checkpoints.load(long_name) == OLD


def test_what_is_no_file_is_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to("circle")

    for name, code in [(".", errno.EISDIR), ("pipe", errno.EISDIR), ("circle", errno.ELOOP)]:
        with pytest.raises(CheckpointWriteError) as raised:
            checkpoints.save(tmp_path / name, OLD)
        assert raised.value.errno == code
    for name in ("no/such/directory", "pipe/latest", "x" * 300, "zero\0byte"):
        with pytest.raises(CheckpointWriteError):
            checkpoints.save(tmp_path / name, OLD)
    assert names_in(tmp_path) == ["circle", "pipe"]


def test_a_copy_is_another_file_when_either_is_saved_again(tmp_path, path):
    best = tmp_path / "best.safetensors"
    checkpoints.save(best, {"epoch": 0})

    checkpoints.copy(path, best)
    assert checkpoints.load(best) == OLD
    checkpoints.save(path, NEW)
    assert checkpoints.load(best) == OLD
    checkpoints.copy(path, best)
    checkpoints.save(best, OLD)
    assert checkpoints.load(path)["epoch"] == 2
    assert names_in(tmp_path) == ["best.safetensors", "latest.safetensors"]


def test_a_copy_takes_no_room(tmp_path, path):
    checkpoints.copy(path, tmp_path / "best.safetensors")
    checkpoints.copy(path, tmp_path / "best.safetensors")  # which they are already: one file under two names
    checkpoints.copy(path, path)

    assert path.samefile(tmp_path / "best.safetensors")
    assert names_in(tmp_path) == ["best.safetensors", "latest.safetensors"]


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK])
def test_where_files_cannot_be_linked_the_bytes_are_copied(tmp_path, path, monkeypatch, code):
    checkpoints.save(path, NEW)
    monkeypatch.setattr(os, "link", failing(os.link, code))

    checkpoints.copy(path, tmp_path / "best.safetensors")

    assert (tmp_path / "best.safetensors").read_bytes() == path.read_bytes()
    assert not path.samefile(tmp_path / "best.safetensors")


def test_what_is_copied_is_the_file_that_was_there_when_copying_began(tmp_path, path, monkeypatch):
    link = os.link

    def replaced_before(source, target):
        checkpoints.save(path, NEW)  # by another process
        link(source, target)

    monkeypatch.setattr(os, "link", replaced_before)
    checkpoints.copy(path, tmp_path / "best.safetensors")

    assert checkpoints.load(tmp_path / "best.safetensors") == OLD
    assert checkpoints.load(path)["epoch"] == 2
    assert names_in(tmp_path) == ["best.safetensors", "latest.safetensors"]


def test_two_processes_that_copy_one_file_at_once_leave_nothing_behind(tmp_path, path, monkeypatch):
    best, replace = tmp_path / "best.safetensors", os.replace

    def other_is_faster(source, target):
        monkeypatch.setattr(os, "replace", replace)
        checkpoints.copy(path, best)
        replace(source, target)  # two names of one file: the system says that all is well, and does nothing

    checkpoints.save(best, {"epoch": 0})
    monkeypatch.setattr(os, "replace", other_is_faster)
    checkpoints.copy(path, best)

    assert best.samefile(path)
    assert names_in(tmp_path) == ["best.safetensors", "latest.safetensors"]


@pytest.mark.parametrize("linked", [True, False])
def test_when_copying_fails_the_old_target_is_untouched_and_nothing_is_left(tmp_path, path, monkeypatch, linked):
    best = tmp_path / "best.safetensors"
    checkpoints.save(best, {"epoch": 0})
    with monkeypatch.context() as patch:
        if not linked:
            patch.setattr(os, "link", failing(os.link, errno.EXDEV))
        patch.setattr(os, "replace", failing(os.replace, errno.ENOSPC))
        with pytest.raises(CheckpointWriteError, match="best"):
            checkpoints.copy(path, best)

    assert checkpoints.load(best) == {"epoch": 0}
    assert names_in(tmp_path) == ["best.safetensors", "latest.safetensors"]


def test_what_is_no_file_is_not_copied(tmp_path, path):
    with pytest.raises(CheckpointNotFoundError):
        checkpoints.copy(tmp_path / "missing", path)
    with pytest.raises(CheckpointDamagedError):
        checkpoints.copy(tmp_path, path)
    with pytest.raises(CheckpointWriteError, match="Can't write"):
        checkpoints.copy(path, tmp_path)
    assert checkpoints.load(path) == OLD


def test_deleting_what_is_there_and_what_is_not(path):
    checkpoints.delete(path)
    checkpoints.delete(path)

    assert names_in(path.parent) == []
    with pytest.raises(CheckpointWriteError, match="Can't delete"):
        checkpoints.delete(path.parent)


# A process that is stopped, or killed, when it has written its file and is about to flush it.
STOPPING = """
import os, signal, sys, numpy as np
from mlpug import checkpoints
os.fsync = lambda file: (print("written", flush=True), signal.pause())
checkpoints.save(sys.argv[1], {"model": np.arange(100_000.0)})
"""


@contextlib.contextmanager
def writing(path):
    with subprocess.Popen([sys.executable, "-c", STOPPING, path], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "written\n"
            yield process
        finally:
            process.kill()


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(path):
    with writing(path) as process:
        (leftover,) = set(names_in(path.parent)) - {path.name}
        checkpoints.remove_leftovers(path.parent, "latest")
        assert leftover in names_in(path.parent)

        process.send_signal(signal.SIGKILL)
        process.wait()
        checkpoints.remove_leftovers(path.parent, "other")
        assert leftover in names_in(path.parent)
        checkpoints.remove_leftovers(path.parent, "latest")

    assert leftover.startswith(".latest.safetensors.")
    assert names_in(path.parent) == [path.name]
    assert checkpoints.load(path) == OLD


def test_a_leftover_whose_pid_is_in_use_again_by_us_is_removed(path):
    with writing(path) as process:
        (leftover,) = set(names_in(path.parent)) - {path.name}
        ours = leftover.replace(f"-{process.pid}-", f"-{os.getpid()}-")
        (path.parent / leftover).rename(path.parent / ours)  # a container restarts with the same few pids
        checkpoints.remove_leftovers(path.parent, "latest")
        assert ours in names_in(path.parent)  # it is locked
    checkpoints.remove_leftovers(path.parent, "latest")

    assert names_in(path.parent) == [path.name]


def test_another_machines_file_is_removed_only_when_nobody_has_it_locked(path):
    with writing(path):
        (leftover,) = set(names_in(path.parent)) - {path.name}
        theirs = re.sub(r"\.[0-9a-f]{8}-\d+-", ".00000000-1-", leftover)  # here, 1 is a living process
        (path.parent / leftover).rename(path.parent / theirs)
        checkpoints.remove_leftovers(path.parent, "latest")
        assert theirs in names_in(path.parent)
    checkpoints.remove_leftovers(path.parent, "latest")

    assert names_in(path.parent) == [path.name]


def test_files_of_others_are_never_removed(path):
    others = [".latest.safetensors.tmp", "latest.tmp", ".latest.safetensors.mlpug-tmp", ".latest.x-1-y.mlpug-tmp"]
    for name in others:
        (path.parent / name).touch()
    (path.parent / ".latest.00000000-1-0000000000000000.mlpug-tmp").mkdir()

    checkpoints.remove_leftovers(path.parent, "latest")
    checkpoints.remove_leftovers(path.parent / "no-such-directory", "latest")

    assert len(names_in(path.parent)) == len(others) + 2


def test_a_state_that_cannot_be_saved_touches_nothing(path):
    before = os.stat(path.parent).st_mtime_ns

    with pytest.raises(StateError):
        checkpoints.save(path, {"model": {1, 2}})

    assert os.stat(path.parent).st_mtime_ns == before


def test_threads_can_save_different_files_at_once(tmp_path):
    from concurrent.futures import ThreadPoolExecutor

    paths = [tmp_path / f"{index}.safetensors" for index in range(8)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda path: checkpoints.save(path, {"name": path.name, "model": NEW["model"]}), paths))

    assert [checkpoints.load(path)["name"] for path in paths] == [path.name for path in paths]
    assert names_in(tmp_path) == [path.name for path in paths]


def test_a_path_can_be_text_or_a_path(tmp_path):
    checkpoints.save(str(tmp_path / "a"), OLD)

    assert checkpoints.load(pathlib.PurePath(tmp_path, "a")) == OLD
