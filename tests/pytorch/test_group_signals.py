"""A signal to all processes of a run: schedulers, timeout(1) and a closed terminal send it so."""

import itertools
import os
import pathlib
import signal
import subprocess
import sys
import time

import psutil
import pytest

SCRIPT = pathlib.Path(__file__).with_name("group_signal_run.py")
CASES = [
    ("0 workers", "training", signal.SIGHUP),
    ("2 workers", "training", signal.SIGTERM),
    ("2 workers", "validation", signal.SIGUSR1),
    ("2 persistent", "validation", signal.SIGTERM),
]
ALL_CASES = list(
    itertools.product(
        ("0 workers", "2 workers", "2 persistent"),
        ("training", "validation"),
        (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP),
    )
)


def pytest_generate_tests(metafunc):
    if "number" in metafunc.fixturenames:
        cases = ALL_CASES if metafunc.config.getoption("--whole-table") else CASES
        metafunc.parametrize(("kind", "place", "number"), cases)


def start(folder, kind, place):
    command = [sys.executable, "-W", "ignore", str(SCRIPT), str(folder), kind, place]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=os.environ
    )


def ended(process, seconds=60):
    """What it said, when it has ended; nobody of its session is left then."""
    try:
        said, errors = process.communicate(timeout=seconds)
    finally:
        left = [each for each in psutil.process_iter() if is_of(each, process.pid)]
        for each in left:
            each.kill()
    assert left == []
    return said, errors


def is_of(other, session):
    try:
        return other.status() != psutil.STATUS_ZOMBIE and os.getsid(other.pid) == session
    except (OSError, psutil.Error):
        return False


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The weights of runs that nobody disturbs, by kind: those of workers differ, which have seeds of their own."""
    found = {}

    def expected(kind):
        if kind not in found:
            said, errors = ended(start(tmp_path_factory.mktemp("whole"), kind, "nowhere"))
            assert "WEIGHTS" in said, errors
            found[kind] = said
        return found[kind]

    return expected


@pytest.mark.timeout(200)
def test_the_batch_finishes_and_a_resumed_run_ends_equal(tmp_path, expected, kind, place, number):
    process = start(tmp_path, kind, place)
    for line in process.stdout:
        if "READY" in line:
            break
    time.sleep(0.03)
    os.killpg(process.pid, number)
    said, errors = ended(process)
    assert process.returncode == 128 + number, errors
    assert "WEIGHTS" not in said

    said, errors = ended(start(tmp_path, kind, "nowhere"))
    assert said == expected(kind), errors
