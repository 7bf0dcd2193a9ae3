"""The record of file-system calls that ``faults.c`` writes, read back."""

from __future__ import annotations

import dataclasses
import pathlib

CHANGING_NAMES = ("rename", "link", "unlink", "symlink", "mkdir")


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """One call as it went."""

    name: str  # of the family: "open" for openat64 too
    result: int  # -1: it failed
    error: int  # errno where it failed
    inode: int  # of the file or folder; of what a name meant before, for a change of names
    path: str
    target: str  # the second path of a rename or a link
    number: int  # the flags of an open, the place in the file of a write, the length of a truncation
    other: int  # of an open: 1 where the file was there before; of a write: the length asked for
    data: bytes  # what was written


def read_record(path: pathlib.Path) -> list[Call]:
    """All calls, in the order in which they ended."""
    return [_call(line.split("\t")) for line in path.read_text().splitlines()] if path.exists() else []


def _call(fields: list[str]) -> Call:
    name, result, error, inode, path, target, number, other, data = fields
    path = path.removesuffix(" (deleted)")
    return Call(name, int(result), int(error), int(inode), path, target, int(number), int(other), bytes.fromhex(data))
