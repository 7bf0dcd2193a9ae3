"""The operations that are struck: what is in the folder before each, and what has to be there after."""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib

from reliability import operations
from reliability.states import STATES, difference, name_of

from mlpug import checkpoints
from mlpug.errors import CheckpointNotFoundError

content = functools.cache(operations.content)

Folder = dict[str, str]  # file name: name of its state


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Scenario:
    """One operation on a folder; the paths among its arguments are names in the folder."""

    title: str
    operation: str
    arguments: tuple[str, ...]
    before: Folder
    after: Folder
    linked: tuple[str, ...] = ()  # file names that are hard links to "run"
    refused: str = ""  # a call that the file system does not know
    looks: int = 1  # runs without a strike until its calls are at an end; with threads, some runs have more calls

    def prepare(self, folder: pathlib.Path) -> None:
        """Writes what was there before."""
        folder.mkdir()
        for name, state in self.before.items():
            if name in self.linked:
                os.link(folder / "run", folder / name)
            else:
                (folder / name).write_bytes(content(state))

    def start(self, processes, folder: pathlib.Path, **strike):
        """Runs the operation in a process that is struck as asked for."""
        arguments = [argument if argument in STATES else folder / argument for argument in self.arguments]
        return processes.run(self.operation, *arguments, folder=folder, refused=self.refused, **strike)

    def __str__(self) -> str:
        return self.title


SAVES = [
    Scenario("a first save", "save", ("run", "new"), {}, {"run": "new"}),
    Scenario("a save over an older one", "save", ("run", "new"), {"run": "old"}, {"run": "new"}),
    Scenario(
        "a save over one that is archived",
        "save",
        ("run", "new"),
        {"run": "old", "archive": "old"},
        {"run": "new", "archive": "old"},
        linked=("archive",),
    ),
]
LARGE_SAVE = Scenario("a save of many blocks", "save", ("run", "large"), {"run": "old"}, {"run": "large"}, looks=3)
ARCHIVES = [
    Scenario("archiving", "copy", ("run", "archive"), {"run": "old"}, {"run": "old", "archive": "old"}),
    Scenario(
        "archiving over an older archive",
        "copy",
        ("run", "archive"),
        {"run": "new", "archive": "old"},
        {"run": "new", "archive": "new"},
    ),
    Scenario(
        "archiving once more",
        "copy",
        ("run", "archive"),
        {"run": "old", "archive": "old"},
        {"run": "old", "archive": "old"},
        linked=("archive",),
    ),
    Scenario(
        "archiving without links",
        "copy",
        ("run", "archive"),
        {"run": "old"},
        {"run": "old", "archive": "old"},
        refused="link",
    ),
    Scenario(
        "archiving over an older archive without links",
        "copy",
        ("run", "archive"),
        {"run": "new", "archive": "old"},
        {"run": "new", "archive": "new"},
        refused="link",
    ),
]
DELETES = [
    Scenario("deleting", "delete", ("run",), {"run": "old"}, {}),
    Scenario("deleting one of two", "delete", ("run",), {"run": "old", "other": "new"}, {"other": "new"}),
    Scenario(
        "deleting one that is archived",
        "delete",
        ("run",),
        {"run": "old", "archive": "old"},
        {"archive": "old"},
        linked=("archive",),
    ),
]
SCENARIOS = [*SAVES, *ARCHIVES, *DELETES]


def restored(path: pathlib.Path) -> str | None:
    """Which state the checkpoint holds; None where there is no checkpoint. A damaged one raises."""
    try:
        state = checkpoints.load(path)
    except CheckpointNotFoundError:
        return None
    checkpoints.verify(path)
    return name_of(state)


def _problems(scenario: Scenario, folder: pathlib.Path, allowed: tuple[Folder, ...]) -> list[str]:
    try:
        found = {name: restored(folder / name) for name in sorted({*scenario.before, *scenario.after})}
    except Exception as error:  # noqa: BLE001 - whatever it was, it is no restored checkpoint
        return [f"{type(error).__name__}: {error}"]
    found = {name: state for name, state in found.items() if state is not None}
    return [] if found in allowed else [f"holds {found}, which is none of {allowed}"]


def problems_of_restoring(scenario: Scenario, folder: pathlib.Path, *allowed: Folder) -> list[str]:
    """What is wrong with the checkpoints themselves: nothing, where the folder is one of the allowed ones."""
    return _problems(scenario, folder, allowed or (scenario.before, scenario.after))


def problems_of_going_on(scenario: Scenario, folder: pathlib.Path, base: str = "run") -> list[str]:
    """What is wrong after the clean-up at the next start, and with a save that follows it."""
    names = {*scenario.before, *scenario.after}
    kept = names & set(os.listdir(folder))
    for name in names:
        checkpoints.remove_leftovers(folder, name)
    left = set(os.listdir(folder)) ^ kept
    checkpoints.save(folder / base, STATES["next"])
    differs = difference(STATES["next"], checkpoints.load(folder / base))
    return [f"left over: {sorted(left)}"] * bool(left) + [f"the next save: {differs}"] * bool(differs)
