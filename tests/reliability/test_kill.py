"""A process that is killed at any file-system call leaves the old checkpoint or the new one, never something else."""

import os
import re
import shutil
import signal
import subprocess
import sys

import pytest
from reliability.calls import read_record
from reliability.scenarios import (
    LARGE_SAVE,
    SAVES,
    SCENARIOS,
    Scenario,
    problems_of_going_on,
    problems_of_restoring,
    restored,
)
from reliability.states import STATES

from mlpug import checkpoints

CLEAN_UP = Scenario("the clean-up", "remove_leftovers", (".", "run"), {"run": "old"}, {"run": "old"})


def kill_at_every_call(processes, tmp_path, scenario, prepare, mode="kill"):
    """Kills at call 1, 2, ... until there is no more call; returns how often it did, and what was wrong after it."""
    killed, failed, looked = 0, [], 0
    for number in range(1, 200):
        folder = tmp_path / str(number)
        prepare(folder)
        outcome = scenario.start(processes, folder, mode=mode, at=number)
        assert outcome.raised is None, outcome.raised.text
        killed += outcome.killed
        looked += not outcome.killed
        if looked == scenario.looks:
            return killed, failed
        found = problems_of_restoring(scenario, folder) + problems_of_going_on(scenario, folder)
        failed += [f"killed at call {number} of {scenario}: {problem}" for problem in found]
    raise AssertionError("more than 200 calls")


def count(counts, killed, failed):
    counts["kill points"] += killed
    counts["kill points: restores that failed"] += len(failed)


@pytest.mark.parametrize("mode", ["kill", "half"])
@pytest.mark.parametrize("scenario", [*SCENARIOS, LARGE_SAVE], ids=str)
def test_a_kill_at_any_call_leaves_the_old_or_the_new_checkpoint(processes, tmp_path, counts, scenario, mode):
    killed, failed = kill_at_every_call(processes, tmp_path, scenario, scenario.prepare, mode)
    count(counts, killed, failed)

    assert killed >= 2
    assert failed == []


@pytest.fixture(scope="module")
def leftovers(processes, tmp_path_factory):
    """A folder with a checkpoint, and with all that saves left beside it that were killed at one of their calls."""
    folder = tmp_path_factory.mktemp("leftovers") / "folder"
    CLEAN_UP.prepare(folder)
    scenario = SAVES[1]
    for number in range(1, 20):
        killed = folder.parent / str(number)
        scenario.prepare(killed)
        scenario.start(processes, killed, mode="kill", at=number)
        for name in set(os.listdir(killed)) - {"run"}:
            shutil.copy(killed / name, folder / name)
    assert len(os.listdir(folder)) >= 5
    return folder


def test_a_kill_in_the_clean_up_costs_nothing_and_the_next_one_finishes_it(processes, tmp_path, counts, leftovers):
    killed, failed = kill_at_every_call(
        processes, tmp_path, CLEAN_UP, lambda folder: shutil.copytree(leftovers, folder)
    )
    count(counts, killed, failed)

    assert killed >= 2 * len(os.listdir(leftovers))  # opening the folder, removing each but the checkpoint
    assert failed == []


def test_the_clean_up_leaves_what_belongs_to_others(tmp_path, leftovers):
    folder = shutil.copytree(leftovers, tmp_path / "folder")
    other = [folder / name.replace("run", "walk", 1) for name in os.listdir(folder)]
    for path in [*other, folder / "run.txt", folder / ".run", folder / "run.tmp"]:
        path.write_bytes(b"somebody's")
    left = sorted(os.listdir(leftovers))
    checkpoints.remove_leftovers(folder, "run")

    assert sorted(set(left) & set(os.listdir(folder))) == ["run"]
    assert all(path.read_bytes() == b"somebody's" for path in [*other, folder / "run.txt", folder / ".run"])


def test_the_clean_up_knows_that_a_number_of_a_process_comes_back(tmp_path, leftovers):
    """After a restart of a container the new process often has the number of the one that was killed."""
    folder = shutil.copytree(leftovers, tmp_path / "folder")
    for path in [path for path in folder.iterdir() if path.name != "run"]:
        path.rename(folder / re.sub(r"-\d+-", f"-{os.getpid()}-", path.name))
    assert len(os.listdir(folder)) == len(os.listdir(leftovers))
    checkpoints.remove_leftovers(folder, "run")

    assert os.listdir(folder) == ["run"]


@pytest.fixture
def stopped(processes, tmp_path):
    """A process that is stopped in the middle of a save, at the call that renames."""
    folder = tmp_path / "folder"
    SAVES[1].prepare(folder)
    SAVES[1].prepare(tmp_path / "elsewhere")
    SAVES[1].start(processes, tmp_path / "elsewhere", record=tmp_path / "record")
    names = [call.name for call in read_record(tmp_path / "record")]
    strike = {"FAULTS_FOLDER": str(folder), "FAULTS_MODE": "stop", "FAULTS_AT": str(names.index("rename") + 1)}
    program = "import sys; from reliability.operations import save; save(sys.argv[1], 'new')"
    command = [sys.executable, "-c", program, str(folder / "run")]
    process = subprocess.Popen(command, env=processes.environment | strike, stderr=subprocess.PIPE)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
    yield process, folder
    process.kill()
    process.communicate()


def test_the_clean_up_leaves_what_a_living_process_is_writing(stopped):
    process, folder = stopped
    before = sorted(os.listdir(folder))
    checkpoints.remove_leftovers(folder, "run")
    during = sorted(os.listdir(folder)), restored(folder / "run")
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=30)

    assert during == (before, "old")
    assert len(before) == 2
    assert (process.returncode, errors) == (0, b"")
    assert (os.listdir(folder), restored(folder / "run")) == (["run"], "new")


def test_two_saves_at_once_leave_one_of_the_two(stopped):
    process, folder = stopped
    checkpoints.save(folder / "run", STATES["next"])
    process.send_signal(signal.SIGCONT)
    process.communicate(timeout=30)

    assert process.returncode == 0
    assert (os.listdir(folder), restored(folder / "run")) == (["run"], "new")
