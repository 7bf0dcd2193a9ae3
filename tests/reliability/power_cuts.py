"""What a power cut during or after an operation may leave, tried out one folder after the other."""

from __future__ import annotations

from reliability.calls import read_record
from reliability.model_disk import Disk
from reliability.scenarios import problems_of_restoring


def recorded(processes, tmp_path, scenario, **strike):
    """The disk before, and the calls of the operation."""
    folder = tmp_path / "folder"
    scenario.prepare(folder)
    disk = Disk.of_folder(folder)
    outcome = scenario.start(processes, folder, record=tmp_path / "record", **strike)
    assert outcome.raised is None, outcome.raised.text
    return folder, disk, read_record(tmp_path / "record")


def folders_after_power_cuts(disk, calls):
    """Every folder that a cut before, between or after the calls may leave: (whether all calls were done, folder)."""
    seen = set()
    for number in range(len(calls) + 1):
        done = number == len(calls)
        for content in disk.after_power_cut():
            if (key := (done, frozenset(content.items()))) not in seen:
                seen.add(key)
                yield done, content
        if not done:
            disk.apply(calls[number])


def write_folder(folder, content):
    """The folder as the power cut left it; hard links come back as files of their own."""
    for path in folder.iterdir():
        path.unlink()
    for path, data in content.items():
        (folder / path.rsplit("/", 1)[1]).write_bytes(data)


def problems_after_power_cuts(folder, disk, calls, scenario):
    """How many folders there were, and what is wrong with them."""
    number, problems = 0, []
    for done, content in folders_after_power_cuts(disk, calls):
        write_folder(folder, content)
        allowed = (scenario.after,) if done else (scenario.before, scenario.after)
        found = problems_of_restoring(scenario, folder, *allowed)
        problems += [f"{'after' if done else 'during'} {scenario}: {problem}" for problem in found]
        number += 1
    return number, problems
