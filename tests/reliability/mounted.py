"""What is done on file systems of their own, in a process that mounts them where no other process sees them.

Run as ``python -m reliability.mounted WHAT FOLDER`` inside ``unshare --mount``; prints a line of JSON. The mounts, and
the loop devices with them, end with the process.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys

from reliability.operations import OPERATIONS
from reliability.scenarios import ARCHIVES, DELETES, SAVES, Scenario, content, problems_of_restoring, restored
from reliability.states import STATES

from mlpug import checkpoints
from mlpug.errors import CheckpointWriteError

PAGE = 4096
SHUT_DOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN
WITHOUT_FLUSHING_THE_JOURNAL = 2


def mount(*arguments: object) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True, capture_output=True, text=True)


def expect(error: CheckpointWriteError, number: int) -> None:
    """The kernel's own error, with its number."""
    assert (error.errno, error.__cause__.errno) == (number, number), error


def _save_on_full_disk(run: pathlib.Path, filler: pathlib.Path, pages: int) -> str:
    """Fills the disk but for some pages, and saves there; says which state can be restored after it."""
    filler.write_bytes(b"")
    status = os.statvfs(filler)
    filler.write_bytes(bytes((status.f_bavail - pages) * PAGE))
    before = sorted(os.listdir(run.parent))
    try:
        checkpoints.save(run, STATES["new"])
    except CheckpointWriteError as error:
        expect(error, errno.ENOSPC)
        expected = "old"
    else:
        expected = "new"
    assert restored(run) == expected
    assert sorted(os.listdir(run.parent)) == before
    return expected


def full_disk(folder: pathlib.Path) -> dict:
    """Saves where ever less space is free; each has to succeed, or to fail with the old checkpoint as it was."""
    mount("-t", "tmpfs", "-o", "size=4m", "none", folder)
    run, filler = folder / "run", folder / "filler"
    most = len(content("new")) // PAGE + 4
    ends = []
    for pages in range(most):
        filler.unlink(missing_ok=True)
        checkpoints.save(run, STATES["old"])
        ends.append(_save_on_full_disk(run, filler, pages))
    filler.unlink()
    checkpoints.save(run, STATES["new"])
    return {"refused": ends.count("old"), "saved": ends.count("new"), "after": restored(run)}


def read_only_disk(folder: pathlib.Path) -> dict:
    """Saves, archives and deletes on a disk that is mounted for reading only."""
    mount("-t", "tmpfs", "none", folder)
    run = folder / "run"
    checkpoints.save(run, STATES["old"])
    mount("-o", "remount,ro", folder)
    attempts = {"save": (run, "new"), "copy": (run, folder / "archive"), "delete": (run,)}
    for operation, arguments in attempts.items():
        try:
            OPERATIONS[operation](*arguments)
        except CheckpointWriteError as error:
            expect(error, errno.EROFS)
        else:
            raise AssertionError(f"{operation} says that it was done")
    return {"refused": len(attempts), "files": os.listdir(folder), "after": restored(run)}


def cut_power(folder: pathlib.Path) -> None:
    """From now on nothing gets to the disk: not what is in memory, and not the journal's open transaction."""
    handle = os.open(folder, os.O_RDONLY)
    fcntl.ioctl(handle, SHUT_DOWN, struct.pack("I", WITHOUT_FLUSHING_THE_JOURNAL))
    os.close(handle)


def _operation_then_power_cut(
    make_disk: str, image: pathlib.Path, folder: pathlib.Path, scenario: Scenario
) -> list[str]:
    subprocess.run([make_disk, "-q", "-F", image], check=True, capture_output=True)
    mount("-o", "loop", image, folder)
    scenario.prepare(disk := folder / "runs")
    os.sync()
    names = [argument if argument in STATES else str(disk / argument) for argument in scenario.arguments]
    OPERATIONS[scenario.operation](*names)
    cut_power(folder)
    subprocess.run(["umount", folder], check=True)
    mount("-o", "loop", image, folder)  # replays the journal, as after the power is back
    problems = problems_of_restoring(scenario, disk, scenario.after)
    subprocess.run(["umount", folder], check=True)
    return problems


def power_cut(folder: pathlib.Path) -> dict:
    """On ext4, cut after each operation has returned, and after a save that does not flush, for comparison."""
    # Not every shell's PATH has these folders.
    make_disk = shutil.which("mkfs.ext4", path=os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"]))
    if make_disk is None:
        return {"not possible": "there is no mkfs.ext4"}
    image = folder.parent / "image"
    with open(image, "wb") as file:
        file.truncate(16 << 20)
    careless = Scenario("", "move_unsynced", ("run", "new"), {"run": "old"}, {"run": "new"})
    scenarios = [SAVES[0], SAVES[1], ARCHIVES[3], DELETES[0]]
    problems = {scenario.title: _operation_then_power_cut(make_disk, image, folder, scenario) for scenario in scenarios}
    naive = _operation_then_power_cut(make_disk, image, folder, careless)
    return {
        "cuts": len(problems),
        "problems": [[title, found] for title, found in problems.items() if found],
        "naive": naive,
    }


def main() -> None:
    what = {"full_disk": full_disk, "read_only_disk": read_only_disk, "power_cut": power_cut}[sys.argv[1]]
    folder = pathlib.Path(sys.argv[2])
    try:
        print(json.dumps(what(folder)))
    except subprocess.CalledProcessError as error:
        print(json.dumps({"not possible": f"{error.cmd[0]}: {error.stderr.strip()}"}))


if __name__ == "__main__":
    main()
