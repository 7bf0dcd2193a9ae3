"""A power cut: what is not flushed may be lost. After a save has returned, nothing of it is."""

import pytest
from reliability.order import disorder
from reliability.power_cuts import problems_after_power_cuts, recorded
from reliability.scenarios import LARGE_SAVE, SAVES, SCENARIOS, Scenario


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_no_power_cut_on_the_model_of_a_disk_loses_a_checkpoint(processes, tmp_path, counts, scenario):
    number, problems = problems_after_power_cuts(*recorded(processes, tmp_path, scenario), scenario)
    counts["power cuts on the model of a disk"] += number
    counts["power cuts on the model of a disk: restores that failed"] += len(problems)

    assert number >= 2
    assert problems == []


@pytest.mark.parametrize(
    ("operation", "problem"),
    [("move_unsynced", "CheckpointDamagedError"), ("move_without_the_folder", "holds {'run': 'old'}")],
)
def test_a_save_that_does_not_flush_is_found_to_lose_checkpoints(processes, tmp_path, counts, operation, problem):
    scenario = Scenario(operation, operation, ("run", "new"), {"run": "old"}, {"run": "new"})
    _, problems = problems_after_power_cuts(*recorded(processes, tmp_path, scenario), scenario)
    counts["a save that does not flush, for comparison: restores that failed"] += len(problems)

    assert any(problem in found for found in problems)


@pytest.mark.parametrize("scenario", [*SCENARIOS, LARGE_SAVE], ids=str)
def test_everything_is_flushed_in_the_right_order(processes, tmp_path, counts, scenario):
    folder, _, calls = recorded(processes, tmp_path, scenario)
    counts["operations whose order of calls was checked"] += 1

    assert disorder(calls) == []
    if scenario.before != scenario.after:
        assert str(folder) in [call.path for call in calls if call.name == "fsync"]


@pytest.mark.parametrize("scenario", SAVES, ids=str)
def test_a_save_writes_then_flushes_then_renames_then_flushes_the_folder(processes, tmp_path, scenario):
    """The same once more, said in plain words rather than by the checker."""
    folder, _, calls = recorded(processes, tmp_path, scenario)
    run = str(folder / "run")
    kinds = [
        "folder" if call.path == str(folder) else call.name
        for call in calls
        if call.name in ("write", "fsync", "rename")
    ]
    renamed = [call for call in calls if call.name == "rename"]

    assert [call.target for call in renamed] == [run]
    assert kinds[: kinds.index("fsync")] == ["write"] * kinds.index("fsync")
    assert kinds[kinds.index("fsync") :] == ["fsync", "rename", "folder"]
    assert {call.inode for call in calls if call.name in ("write", "rename")} == {renamed[0].inode}
    assert not [call for call in calls if call.name == "open" and call.path == run]
