"""What signals do to processes that are started while training."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

SCRIPT = pathlib.Path(__file__).with_name("child_processes_run.py")

pytestmark = pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="this system doesn't say who sends signals")


def start(case):
    command = [sys.executable, str(SCRIPT), case]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, env=os.environ
    )


def is_over(session, seconds=10.0):
    """Whether nobody of the session is left, or soon."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(session, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    os.killpg(session, signal.SIGKILL)
    return False


@pytest.mark.timeout(100)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_children_outlive_a_signal_to_all_until_the_batch_is_done(number):
    process = start("group")
    assert process.stdout.readline() == "READY\n"
    os.killpg(process.pid, number)
    said, errors = process.communicate(timeout=60)
    assert said == "DONE\n", errors
    assert process.returncode == 128 + number
    assert is_over(process.pid)


@pytest.mark.timeout(100)
def test_they_end_when_the_trainer_is_killed():
    process = start("group")
    assert process.stdout.readline() == "READY\n"
    os.killpg(process.pid, signal.SIGTERM)
    process.kill()
    process.stdout.close()
    process.stderr.close()
    process.wait(20)
    assert is_over(process.pid)


@pytest.mark.timeout(100)
@pytest.mark.parametrize("case", ["terminate", "fork", "afterwards"])
def test_what_the_trainer_sends_is_heard_as_ever(case):
    process = start(case)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert is_over(process.pid)
