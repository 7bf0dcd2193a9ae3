"""A whole run that is killed, or refused, at any file-system call: its files are whole, and it goes on to its end."""

import errno
import logging

import pytest
from reliability.operations import run_of

from mlpug import checkpoints
from mlpug.errors import CheckpointDamagedError

SEED = 1


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(logging.getLogger("mlpug"), "disabled", True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run_of(tmp_path_factory.mktemp("whole"), SEED).train().outcome()


FILES = {"best-model-checkpoint", "latest-model-checkpoint", "training-checkpoint"}
LAST_ARCHIVED = "model-checkpoint-10"
OTHER_ARCHIVED = {f"model-checkpoint-{number}" for number in (2, 4, 6, 8)}


def problems(folder, whole, *allowed):
    """What is wrong with the files, and with the run that goes on with them."""
    for path in folder.glob("*.safetensors"):
        try:
            checkpoints.verify(path)
        except CheckpointDamagedError as error:
            return [str(error)]
    # Before there is a checkpoint the run starts again; after that whatever is drawn anew is another.
    seed = SEED + 100 if list(folder.glob("*-training-checkpoint.safetensors")) else SEED
    found = run_of(folder, seed).train("auto").outcome()
    rows = whole["rows"][len(whole["rows"]) - len(found["rows"]) :]
    different = [name for name, value in {**whole, "rows": rows}.items() if found[name] != value]
    kept = {path.name.removeprefix("run-").removesuffix(".safetensors") for path in folder.iterdir()}
    is_right = kept >= FILES and any(kept - FILES <= archived for archived in allowed)
    return [f"{name} differs" for name in different] + [f"the folder has {sorted(kept)}"] * (not is_right)


def struck_everywhere(processes, tmp_path, **strike):
    """Strikes at call 1, 2, ... of a run until there is no more: (outcome, folder) of each."""
    for number in range(1, 2000):
        folder = tmp_path / str(number)
        folder.mkdir()
        outcome = processes.run("train", folder, SEED, folder=folder, at=number, **strike)
        if not outcome.killed and outcome.calls < number:
            return
        yield outcome, folder
    raise AssertionError("too many calls")


@pytest.mark.timeout(900)
def test_killed_at_any_call(processes, tmp_path, whole, counts):
    failed, kills = [], 0
    for outcome, folder in struck_everywhere(processes, tmp_path, mode="kill"):
        assert outcome.killed, outcome
        kills += 1
        failed += problems(folder, whole, {LAST_ARCHIVED})
    counts["whole runs killed at a call"] = kills
    counts["whole runs killed at a call: wrong afterwards"] = len(failed)

    assert kills > 100
    assert failed == []


@pytest.mark.timeout(900)
def test_a_disk_that_is_full_at_any_call(processes, tmp_path, whole, counts):
    failed, calls = [], 0
    for outcome, folder in struck_everywhere(processes, tmp_path, mode="fail", error=errno.ENOSPC):
        calls += 1
        raised = outcome.raised
        if raised is not None and "CheckpointError" not in raised.bases and "ConfigurationError" not in raised.bases:
            failed.append(raised.text)
        # The error was told: what it was about isn't made up for by a run that has nothing left to do.
        failed += problems(folder, whole, {LAST_ARCHIVED, *OTHER_ARCHIVED})
    counts["whole runs with a failing call"] = calls
    counts["whole runs with a failing call: wrong afterwards"] = len(failed)

    assert calls > 100
    assert failed == [], "\n".join(failed)
