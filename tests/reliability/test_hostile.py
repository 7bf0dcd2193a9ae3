"""Files made to do harm are refused at once; nothing in them is executed, allocated, or taken for a path."""

import os
import socket
import sys
import time
import tracemalloc

import numpy as np
import pytest
from reliability.hostile_files import (
    BROKEN,
    SEALED_TITLES,
    foreign_files,
    forged,
    odd_files,
    sealed_files,
)
from reliability.scenarios import content
from reliability.states import name_of

from mlpug import checkpoints
from mlpug.errors import (
    CheckpointDamagedError,
    CheckpointError,
    CheckpointNotFoundError,
    CheckpointWriteError,
)

pytestmark = pytest.mark.timeout(20)

MOST_SECONDS = 1.0
MOST_BYTES = 48_000_000  # far below what any of the files claims to hold; the largest ones themselves have 2 MB
HARMLESS = ("object.__getattr__", "object.__setattr__", "object.__delattr__", "sys._getframe", "os.listdir")
_events: list[tuple[str, tuple]] | None = None


def _hear(event, arguments):
    if _events is not None and event not in HARMLESS:
        _events.append((event, arguments))


sys.addaudithook(_hear)  # stays for the life of the process; it is deaf outside of `attempt`


@pytest.fixture
def attempt(tmp_path):
    """Loads a file, and gives the error with what the interpreter did meanwhile: (error, audit events)."""
    good = tmp_path / "good"
    good.write_bytes(content("next"))
    name_of(checkpoints.load(good))  # whatever is imported on the first load is imported now
    with pytest.raises(CheckpointError):
        checkpoints.load(__file__)

    def run(path, how=checkpoints.load):
        error, events, seconds = heard(path, how)
        assert seconds < MOST_SECONDS
        assert allocated(path, how) < MOST_BYTES
        assert [event for event in events if event[0] != "open"] == []
        assert {arguments[0] for _, arguments in events} <= {str(path)}
        assert not [arguments for _, arguments in events if arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)]
        return error

    return run


def outcome(how, path):
    try:
        how(path)
    except CheckpointError as error:
        return error
    return None


def heard(path, how):
    """How it ended, what the interpreter did meanwhile, and how long it computed: (error, events, seconds)."""
    global _events
    started, _events = time.process_time(), []  # not the clock's: other processes are no fault of the file's
    try:
        error = outcome(how, path)
    finally:
        events, _events = _events, None
    return error, events, time.process_time() - started


def allocated(path, how):
    """The most bytes that it had at a time."""
    tracemalloc.start()
    try:
        outcome(how, path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.fixture
def refuses(attempt, tmp_path, counts):
    """Loads and verifies a file with those bytes, and returns the error of both, where both are refused."""

    def check(data):
        path = tmp_path / "hostile"
        path.write_bytes(data)
        errors = [attempt(path, how) for how in (checkpoints.load, checkpoints.verify)]
        counts["hostile files"] += 1
        counts["hostile files: loaded"] += None in errors
        assert [type(error) for error in errors] == [CheckpointDamagedError] * 2
        return str(errors[0])

    return check


def test_what_is_forged_here_is_a_checkpoint_but_for_the_harm(tmp_path):
    """Else a file would be refused for a wrong digest, and what it says would never be read."""
    path = tmp_path / "run"
    path.write_bytes(forged(data=np.array([1, 2], np.float32).tobytes()))
    assert checkpoints.load(path)["a"].tolist() == [1, 2]


@pytest.mark.parametrize("title", SEALED_TITLES)
def test_a_file_with_right_digests_and_wrong_content_is_refused(refuses, title):
    problem = refuses(sealed_files()[title])
    assert title.startswith(("version", "no version")) or "header is damaged" not in problem  # it was read to the harm


@pytest.mark.parametrize("title", list(BROKEN))
def test_a_broken_file_is_refused(refuses, title):
    assert refuses(BROKEN[title])


@pytest.mark.parametrize("title", list(foreign_files("marker")))
def test_a_file_of_another_format_is_refused_and_its_code_is_not_run(refuses, tmp_path, title):
    marker = tmp_path / "marker"
    assert refuses(foreign_files(marker)[title])
    assert not marker.exists()


def is_plain(value):
    """Whether it is what a state is made of, and no instance of something that a file could name."""
    if type(value) is dict:
        return all(type(key) is str and is_plain(item) for key, item in value.items())
    if type(value) is list:
        return all(map(is_plain, value))
    return value is None or type(value) in (bool, int, float, str, np.ndarray)


@pytest.mark.parametrize("title", list(odd_files()))
def test_an_odd_file_is_refused_or_is_a_state_like_any_other(attempt, tmp_path, counts, title):
    """Names are looked up in the header, and never on a disk: `attempt` sees to it that no other file is opened."""
    path = tmp_path / "run"
    path.write_bytes(odd_files()[title])
    error = attempt(path)
    attempt(path, checkpoints.verify)
    attempt(path, checkpoints.describe)
    counts["odd files"] += 1

    if error is None:
        state = checkpoints.load(path)
        assert type(state) is dict
        assert is_plain(state)
    else:
        assert type(error) is CheckpointDamagedError
    assert sorted(os.listdir(tmp_path)) == ["good", "run"]


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(path.parent)  # the address has to be short
        server.bind(path.name)


def make_sparse(path):
    with open(path, "wb") as file:
        file.truncate(1 << 40)


NOT_FILES = {
    "a folder": (os.mkdir, CheckpointDamagedError),
    "a pipe without a writer": (os.mkfifo, CheckpointDamagedError),
    "a socket": (make_socket, CheckpointDamagedError),
    "a link to itself": (lambda path: path.symlink_to(path.name), CheckpointError),
    "a link to nothing": (lambda path: path.symlink_to("nothing"), CheckpointNotFoundError),
    "a link to endless zeros": (lambda path: path.symlink_to("/dev/zero"), CheckpointDamagedError),
    "a link to a terminal": (lambda path: path.symlink_to("/dev/tty"), CheckpointDamagedError),
    "a terabyte of holes": (make_sparse, CheckpointDamagedError),
    "nothing": (lambda path: None, CheckpointNotFoundError),
}


@pytest.mark.parametrize("title", list(NOT_FILES))
def test_what_is_no_file_is_refused_at_once(attempt, tmp_path, monkeypatch, counts, title):
    monkeypatch.chdir(tmp_path)
    make, expected = NOT_FILES[title]
    make(tmp_path / "run")
    errors = [attempt(tmp_path / "run", how) for how in (checkpoints.load, checkpoints.verify)]
    counts["hostile files"] += 1
    counts["hostile files: loaded"] += None in errors

    assert [type(error) for error in errors] == [expected] * 2


def test_what_is_no_file_is_not_replaced_by_a_save(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(CheckpointWriteError):
            checkpoints.save(path, {"epoch": 1})
    assert os.listdir(tmp_path) == ["pipe"]
