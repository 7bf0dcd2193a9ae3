"""The same on file systems that are really full, not writable, or without power, and not only made to look like it."""

import errno
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import pytest
from reliability.power_cuts import problems_after_power_cuts, recorded
from reliability.scenarios import SAVES, content, problems_of_going_on, problems_of_restoring, restored

NOBODY = 65534


def mounted(what, folder):
    """Runs it in a process with mounts of its own; an ordinary user tries it as the root of a namespace of its own."""
    if shutil.which("unshare") is None:
        return {"not possible": "there is no unshare"}
    become_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    command = ["unshare", *become_root, "--mount", sys.executable, "-m", "reliability.mounted", what, str(folder)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    if ran.stderr.startswith("unshare:"):
        return {"not possible": ran.stderr.strip()}
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.fixture
def mount_point(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    return folder


@pytest.fixture
def open_folder():
    """A folder with a checkpoint that any user may enter; those of pytest are for its own user."""
    place = pathlib.Path(tempfile.mkdtemp())
    place.chmod(0o755)
    SAVES[1].prepare(place / "folder")
    yield place / "folder"
    (place / "folder").chmod(0o755)
    shutil.rmtree(place)


@pytest.mark.parametrize("operation", ["save", "copy", "delete"])
def test_a_folder_that_this_user_may_not_write_to(processes, open_folder, counts, operation):
    arguments = {"save": ("run", "new"), "copy": ("run", "archive"), "delete": ("run",)}[operation]
    paths = [argument if argument == "new" else open_folder / argument for argument in arguments]
    open_folder.chmod(0o555)
    user = NOBODY if os.geteuid() == 0 else os.geteuid()
    outcome = processes.run("as_user", user, operation, *paths, folder=open_folder)
    counts["operations in a folder that may not be written to: refused"] += 1

    assert (outcome.raised.type, outcome.raised.error_number) == ("CheckpointWriteError", errno.EACCES)
    assert outcome.raised.cause_error_number == errno.EACCES
    assert (os.listdir(open_folder), restored(open_folder / "run")) == (["run"], "old")


def save_under_every_limit(processes, tmp_path):
    """Saves where files may not grow beyond 0, 1, ... bytes; gives how often it was refused, and what was wrong."""
    scenario, whole = SAVES[1], len(content("new"))
    found = []
    for refused, limit in enumerate(sorted({0, 1, 7, *range(8, whole, whole // 50), whole - 1, whole})):
        folder = tmp_path / str(limit)
        scenario.prepare(folder)
        outcome = processes.run("with_file_limit", limit, "save", folder / "run", "new", folder=folder)
        if limit == whole:
            assert outcome.raised is None, outcome.raised.text
            return refused, found + problems_of_restoring(scenario, folder, scenario.after)
        numbers = (outcome.raised.error_number, outcome.raised.cause_error_number)
        assert (outcome.raised.type, numbers) == ("CheckpointWriteError", (errno.EFBIG,) * 2), outcome.raised.text
        assert os.listdir(folder) == ["run"]
        found += problems_of_restoring(scenario, folder, scenario.before) + problems_of_going_on(scenario, folder)
    raise AssertionError("the whole file was not reached")


def test_files_that_may_not_grow_further(processes, tmp_path, counts):
    refused, found = save_under_every_limit(processes, tmp_path)
    counts["saves beyond the limit of a file's size: refused"] += refused

    assert refused > 50
    assert found == []


def test_a_full_disk(processes, tmp_path, mount_point, counts):
    """Where nothing can be mounted, files that may not grow are what else the kernel itself refuses to write."""
    ended = mounted("full_disk", mount_point)
    if "not possible" in ended:
        counts["a full tmpfs"] = f"not possible here: {ended['not possible']}"
        refused, found = save_under_every_limit(processes, tmp_path)
        assert (refused > 50, found) == (True, [])
        return
    counts["saves on a full tmpfs: refused, with the old checkpoint restored"] += ended["refused"]

    assert ended["refused"] >= 3
    assert ended["saved"] >= 3
    assert ended["after"] == "new"


def test_a_disk_for_reading_only(processes, tmp_path, mount_point, counts):
    ended = mounted("read_only_disk", mount_point)
    if "not possible" in ended:
        counts["a disk for reading only"] = f"not possible here: {ended['not possible']}"
        folder = tmp_path / "folder"
        SAVES[1].prepare(folder)
        outcome = SAVES[1].start(processes, folder, mode="broken", at=1, error=errno.EROFS)
        assert outcome.raised.error_number == errno.EROFS
        assert restored(folder / "run") == "old"
        return
    counts["operations on a disk for reading only: refused"] += ended["refused"]

    assert ended == {"refused": 3, "files": ["run"], "after": "old"}


def test_a_power_cut_on_ext4_after_an_operation_has_returned(processes, tmp_path, mount_point, counts):
    """Needs root and loop devices. Elsewhere the model of a disk has to do, as in `test_power_cut`."""
    ended = mounted("power_cut", mount_point)
    if "not possible" in ended:
        counts["power cuts on ext4"] = f"not possible here: {ended['not possible']}"
        number, problems = problems_after_power_cuts(*recorded(processes, tmp_path, SAVES[1]), SAVES[1])
        assert (number > 100, problems) == (True, [])
        return
    counts["power cuts on ext4, of which the operation's result was there"] = (
        f"{ended['cuts'] - len(ended['problems'])} of {ended['cuts']}"
    )

    assert (ended["cuts"], ended["problems"]) == (4, [])
    assert ended["naive"] != []  # a save that does not flush is lost
