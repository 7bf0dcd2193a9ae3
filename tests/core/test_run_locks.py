"""Two runs don't write the same checkpoints: the second is refused, and nothing of a killed run is in the way."""

import contextlib
import errno
import os
import pathlib
import platform
import signal
import subprocess
import sys

import pytest
from core.checkpoint_runs import BEST, LATEST, TRAINING, StopAt, contents, manager_of

from mlpug.adapter import Process
from mlpug.callbacks import Callback, CheckpointManager
from mlpug.checkpoints import locks
from mlpug.errors import CheckpointDamagedError, CheckpointInUseError, CheckpointWriteError
from mlpug.trainers.held_files import HeldFiles

fcntl = pytest.importorskip("fcntl", reason="this system has no lock that ends with its process")

SCRIPT = pathlib.Path(__file__).with_name("locking_run.py")
LOCK = ".run.mlpug-lock"


def all_in(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def manager_in(directory, base="run", extra=(), **options):
    saves = CheckpointManager(directory, base, metric_to_monitor=None, create_checkpoint_every=1)
    return manager_of([*extra, saves], **options)


@contextlib.contextmanager
def another_run(directory, base="run", children=""):
    """It is in its second batch; with the pids of its children."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, str(SCRIPT), str(directory), base, children]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, start_new_session=True, **pipes) as process:
        try:
            said = next(line for line in process.stdout if line.startswith("READY"))
            pids = said.split()[1:]
            yield process, [int(pid) for pid in pids]
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


class Trained(Callback):
    """Counts batches, and looks at what is in the directory when training has started."""

    def __init__(self, directory=None):
        self.directory, self.batches, self.at_start = directory, 0, None

    def on_training_start(self, logs):
        self.at_start = sorted(path.name for path in self.directory.iterdir()) if self.directory else None

    def on_batch_training_completed(self, batch, logs):
        self.batches += 1


@pytest.mark.parametrize("resume_from", [None, "auto"])
def test_a_second_run_is_refused_before_it_trains_or_writes(tmp_path, resume_from):
    with another_run(tmp_path) as (process, _):
        before, trained = all_in(tmp_path), Trained()
        said = rf"process {process.pid} on host '{platform.node()}' has locked .* base_checkpoint_filename"
        with pytest.raises(CheckpointInUseError, match=said) as raised:
            manager_in(tmp_path, extra=[trained]).start_training(resume_from)
        assert str(tmp_path / "run") in str(raised.value)
        assert trained.batches == 0
        assert all_in(tmp_path) == before
        assert LOCK in before

        process.communicate("\n", timeout=30)
        assert process.returncode == 0
    assert set(all_in(tmp_path)) == set(before) - {LOCK}
    manager_in(tmp_path, extra=[trained]).start_training()
    assert trained.batches == 6


@pytest.mark.parametrize("resume_from", ["auto", TRAINING])
def test_so_is_one_that_would_go_on_with_its_files(tmp_path, resume_from):
    resume_from = resume_from if resume_from == "auto" else tmp_path / TRAINING
    with another_run(tmp_path) as (process, _):
        before, trained = all_in(tmp_path), Trained()
        with pytest.raises(CheckpointInUseError, match=f"process {process.pid} on"):
            manager_in(tmp_path, base=None, extra=[trained]).start_training(resume_from)
        assert (trained.batches, all_in(tmp_path)) == (0, before)

        manager_in(tmp_path, base="other", extra=[trained], num_epochs=1).start_training(tmp_path / TRAINING)
        assert trained.batches == 5  # it only reads that one's


def test_other_names_and_other_directories_are_free(tmp_path):
    with another_run(tmp_path):
        for directory, base in ((tmp_path, "other"), (tmp_path, None), (tmp_path / "other", "run")):
            trained = Trained()
            manager_in(directory, base, [trained]).start_training()
            assert trained.batches == 6


def test_a_path_by_which_it_is_reached_makes_no_difference(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    with another_run(tmp_path / "real"), pytest.raises(CheckpointInUseError):
        manager_in("link").start_training()


CHILDREN = ["", "fork", "multiprocessing", "program", "fork,multiprocessing,program"]


@pytest.mark.parametrize("children", CHILDREN)
def test_a_killed_run_leaves_no_lock_though_its_children_live(tmp_path, children):
    with another_run(tmp_path, children=children) as (process, pids):
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert LOCK in all_in(tmp_path)
        trained = Trained()
        manager_in(tmp_path, extra=[trained]).start_training("auto")

        assert trained.batches == 5
        for pid in pids:
            os.kill(pid, 0)
    assert LOCK not in all_in(tmp_path)


def test_a_child_that_ends_takes_no_lock_from_its_parent(tmp_path):
    with another_run(tmp_path, children="unwinds"), pytest.raises(CheckpointInUseError):
        manager_in(tmp_path).start_training()


class Fails(Callback):
    def __init__(self, hook, error):
        self.error = error
        setattr(self, hook, self.fail)

    def fail(self, *arguments, **more):
        raise self.error


@pytest.mark.parametrize("hook", ["on_training_start", "on_batch_training_completed", "on_rest", "on_training_ended"])
@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt(), SystemExit(3)])
def test_it_is_released_however_training_ends(tmp_path, hook, error):
    failing = type("Failing", (Callback,), {hook: Fails(hook, error).fail})()
    with pytest.raises(type(error)):
        manager_in(tmp_path, extra=[failing]).start_training()
    assert LOCK not in all_in(tmp_path)
    manager_in(tmp_path, extra=[StopAt(2)]).start_training()
    manager_in(tmp_path).start_training()
    assert LOCK not in all_in(tmp_path)


def test_it_is_released_where_training_cannot_start(tmp_path):
    manager_in(tmp_path).start_training()
    (tmp_path / TRAINING).write_bytes(b"damaged")
    for base in ("run", None):
        with pytest.raises(CheckpointDamagedError):
            manager_in(tmp_path, base).start_training("auto")
    assert LOCK not in all_in(tmp_path)


def test_a_signal_that_ends_the_process_releases_it(tmp_path):
    with another_run(tmp_path) as (process, _):
        process.send_signal(signal.SIGTERM)
        process.communicate("\n", timeout=30)
        assert process.returncode == 128 + signal.SIGTERM
        assert LOCK not in all_in(tmp_path)


def test_a_manager_that_does_not_start_holds_nothing(tmp_path):
    first, second = manager_in(tmp_path), manager_in(tmp_path)
    assert all_in(tmp_path) == {}
    second.start_training()
    first.start_training()


def test_two_at_once_in_one_process_are_told_that_they_are(tmp_path):
    class Nested(Callback):
        def on_batch_training_completed(self, batch, logs):
            manager_in(tmp_path).start_training()

    with pytest.raises(CheckpointInUseError, match=rf"a training in this same process \({os.getpid()} on host"):
        manager_in(tmp_path, extra=[Nested()]).start_training()


class Best(CheckpointManager):
    """Beside another one, which keeps its state under another name."""


def test_callbacks_of_one_run_share_their_files(tmp_path):
    best = Best(
        tmp_path,
        "run",
        metric_to_monitor="training_params.batch.lr",
        metric_monitor_period=1,
        create_latest_model_checkpoint=False,
        create_training_checkpoint=False,
    )
    manager_in(tmp_path, extra=[best]).start_training()
    assert contents(tmp_path) == {BEST: 1, LATEST: 6, TRAINING: 6}


def test_only_the_process_that_writes_holds(tmp_path, on_rank, make_trainer):
    trainer = make_trainer()
    trainer.adapter = on_rank(trainer.adapter, 1)
    saves = CheckpointManager(tmp_path, "run", metric_to_monitor=None)
    assert isinstance(trainer.process, Process)
    with HeldFiles([saves], trainer):
        assert all_in(tmp_path) == {}
    trainer.adapter = on_rank(trainer.adapter, 0)
    with HeldFiles([saves], trainer):
        assert list(all_in(tmp_path)) == [LOCK]
    assert all_in(tmp_path) == {}


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, None])
def test_where_nothing_can_be_locked_a_run_trains_as_ever(tmp_path, monkeypatch, code):
    def refuses(*_):
        raise OSError(code, os.strerror(code))

    if code is None:
        monkeypatch.setattr(locks, "fcntl", None)
    else:
        monkeypatch.setattr(fcntl, "flock", refuses)
    trained = Trained(tmp_path)
    manager_in(tmp_path, extra=[trained]).start_training()

    assert trained.batches == 6
    assert trained.at_start == []
    assert LOCK not in all_in(tmp_path)


def readable_only(monkeypatch):
    real = os.open

    def refusing(path, flags, *mode):
        if str(path).endswith(LOCK) and flags & os.O_RDWR and os.path.exists(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, flags, *mode)

    monkeypatch.setattr(os, "open", refusing)


def test_a_file_that_another_user_has_left_is_replaced(tmp_path, monkeypatch):
    (tmp_path / LOCK).write_text("process 1 on host elsewhere\n")
    readable_only(monkeypatch)
    lock = locks.RunLock(tmp_path / LOCK)
    lock.acquire()
    assert (tmp_path / LOCK).read_text() == f"process {os.getpid()} on host {platform.node()}\n"
    lock.release()
    assert all_in(tmp_path) == {}


def test_another_users_that_is_held_is_respected(tmp_path, monkeypatch):
    with another_run(tmp_path) as (process, _):
        readable_only(monkeypatch)
        with pytest.raises(CheckpointInUseError, match=f"process {process.pid} on"):
            locks.RunLock(tmp_path / LOCK).acquire()


def test_what_the_holder_before_removed_meanwhile_is_not_taken_for_the_lock(tmp_path, monkeypatch):
    real, times = fcntl.flock, []

    def removed_before(descriptor, operation):
        if not times:
            times.append((tmp_path / LOCK).unlink())
        return real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", removed_before)
    lock = locks.RunLock(tmp_path / LOCK)
    lock.acquire()
    with pytest.raises(CheckpointInUseError):
        locks.RunLock(tmp_path / LOCK).acquire()
    lock.release()


def test_a_lock_that_somebody_removed_is_not_the_next_ones_to_lose(tmp_path):
    first, second = locks.RunLock(tmp_path / LOCK), locks.RunLock(tmp_path / LOCK)
    first.acquire()
    (tmp_path / LOCK).unlink()
    second.acquire()
    first.release()
    with pytest.raises(CheckpointInUseError):
        first.acquire()
    second.release()
    assert all_in(tmp_path) == {}


@pytest.mark.parametrize("text", [b"", b"\xff\xfe" * 99, b"process 1", b"process 9 on host x\n" * 9, b"0" * 10**6])
def test_a_holder_that_says_nothing_is_another_process(tmp_path, text):
    with another_run(tmp_path):
        (tmp_path / LOCK).write_bytes(text)
        with pytest.raises(CheckpointInUseError, match="another process has locked"):
            manager_in(tmp_path).start_training()


def test_nothing_is_opened_by_the_name_of_a_lock(tmp_path):
    (tmp_path / "letter").write_text("dear")
    for make in (lambda path: path.symlink_to("letter"), os.mkfifo, os.mkdir):
        make(tmp_path / LOCK)
        with pytest.raises(CheckpointWriteError, match=r"Can't lock the checkpoint .*No training has started"):
            manager_in(tmp_path).start_training()
        assert (tmp_path / "letter").read_text() == "dear"
        (tmp_path / LOCK).rmdir() if (tmp_path / LOCK).is_dir() else (tmp_path / LOCK).unlink()


def test_a_full_disk_keeps_nobody_from_locking(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    lock = locks.RunLock(tmp_path / LOCK)
    lock.acquire()
    with pytest.raises(CheckpointInUseError):
        locks.RunLock(tmp_path / LOCK).acquire()
    lock.release()


def test_a_run_whose_end_nobody_tells_yields_to_the_next_in_its_process(tmp_path):
    first, second = (locks.RunLock(tmp_path / LOCK, yields=True) for _ in range(2))
    first.acquire()
    second.acquire()
    first.release()
    assert list(all_in(tmp_path)) == [LOCK]
    second.release()
    assert all_in(tmp_path) == {}
