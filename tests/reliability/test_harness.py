"""The tests of the tests: a save that is not careful is found out, and no call escapes the record."""

import errno

import pytest
from reliability.calls import read_record
from reliability.model_disk import Disk
from reliability.scenarios import SAVES, SCENARIOS, Scenario, content, problems_of_restoring


def naive(operation):
    return Scenario(operation, operation, ("run", "new"), {"run": "old"}, {"run": "new"})


def test_every_call_of_the_record_is_a_kill_point_and_none_comes_after(processes, tmp_path):
    scenario = SAVES[1]
    for number in range(1, 40):
        scenario.prepare(tmp_path / str(number))
        outcome = scenario.start(processes, tmp_path / str(number), mode="kill", at=number)
        if not outcome.killed:
            break
    scenario.prepare(tmp_path / "whole")
    whole = scenario.start(processes, tmp_path / "whole", record=tmp_path / "record")

    assert number == outcome.calls + 1 == whole.calls + 1 == len(read_record(tmp_path / "record")) + 1
    assert outcome.raised is None


def test_a_save_in_place_is_found_to_lose_checkpoints_when_killed(processes, tmp_path, counts):
    scenario = naive("write_in_place")
    failed = []
    for number, mode in enumerate(("kill", "half") * 8):
        folder = tmp_path / str(number)
        scenario.prepare(folder)
        scenario.start(processes, folder, mode=mode, at=number // 2 + 1)
        failed += problems_of_restoring(scenario, folder)
    counts["a naive save, for comparison: restores that failed"] += len(failed)

    assert len(failed) >= 2  # after the truncation, and after half of the write


def test_a_half_write_leaves_half_of_the_bytes(processes, tmp_path):
    folder = tmp_path / "folder"
    scenario = naive("write_in_place")
    scenario.prepare(folder)
    outcome = scenario.start(processes, folder, mode="half", at=2)

    assert outcome.killed
    assert (folder / "run").read_bytes() == content("new")[: len(content("new")) // 2]


def test_a_call_fails_as_asked_for(processes, tmp_path):
    folder = tmp_path / "folder"
    scenario = naive("write_in_place")
    scenario.prepare(folder)
    outcome = scenario.start(processes, folder, mode="fail", at=2, error=errno.ENOSPC)

    assert (outcome.raised.type, outcome.raised.error_number) == ("OSError", errno.ENOSPC)
    assert (folder / "run").read_bytes() == b""


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_no_call_escapes_the_record(processes, tmp_path, scenario):
    """Replayed on a model of a disk, the record has to give the folder that is really there."""
    folder = tmp_path / "folder"
    scenario.prepare(folder)
    disk = Disk.of_folder(folder)
    outcome = scenario.start(processes, folder, record=tmp_path / "record")
    assert outcome.raised is None, outcome.raised.text
    for call in read_record(tmp_path / "record"):
        disk.apply(call)

    assert disk.content() == {str(path): path.read_bytes() for path in folder.iterdir()}
