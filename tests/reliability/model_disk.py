"""A model of a disk that keeps only what was flushed to it, and what a power cut may leave of the rest.

POSIX promises nothing about what was not flushed: of the writes to a file since its last fsync each may be there, or
not, or by half, or as zeros, and of the changes of names since the folder's last fsync any may be there. Real file
systems are kinder, each in its own way; what survives here survives on all of them.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import pathlib
from collections.abc import Iterator

from reliability.calls import Call

Content = dict[str, bytes]  # path: bytes
WITHOUT_EFFECT = ("close", "read", "opendir", "chmod", "fallocate")


@dataclasses.dataclass(slots=True, eq=False)
class File:
    """One file, under whatever names it has."""

    durable: bytes = b""
    pending: list[tuple[int, bytes | None]] = dataclasses.field(default_factory=list)  # (place, bytes); None: cut there

    def flush(self) -> None:
        self.durable = self.content()
        self.pending.clear()

    def content(self) -> bytes:
        return _written(self.durable, self.pending)

    def variants(self) -> set[bytes]:
        """What may be left of the file."""
        fates = [_fates(place, data) for place, data in self.pending]
        return {_written(self.durable, [change for change in kept if change]) for kept in itertools.product(*fates)}


def _fates(place, data):
    """Of one change: all of it, nothing, and of a write also its first half and zeros in its place."""
    if data is None:
        return [(place, data), None]
    return [(place, data), None, (place, data[: len(data) // 2]), (place, bytes(len(data)))]


def _written(content, changes):
    for place, data in changes:
        if data is None:
            content = content[:place].ljust(place, b"\0")
        else:
            content = content[:place].ljust(place, b"\0") + data + content[place + len(data) :]
    return content


@dataclasses.dataclass(slots=True)
class Disk:
    """Files and their names, as they are now and as they are on the disk."""

    now: dict[str, File]
    durable: dict[str, File]
    pending: list[dict[str, File | None]] = dataclasses.field(default_factory=list)  # changes of names; None: removed
    inodes: dict[int, File] = dataclasses.field(default_factory=dict)

    @classmethod
    def of_folder(cls, folder: pathlib.Path) -> Disk:
        """A real folder, taken as flushed."""
        by_inode: dict[int, File] = {}
        for path in folder.iterdir():
            by_inode.setdefault(path.stat().st_ino, File(path.read_bytes()))
        names = {str(path): by_inode[path.stat().st_ino] for path in folder.iterdir()}
        return cls(dict(names), dict(names), inodes=by_inode)

    def apply(self, call: Call) -> None:
        """Lets a call happen. One that the model does not know is an error: it might have changed something."""
        if call.result < 0 or call.name in WITHOUT_EFFECT:
            return
        getattr(self, f"_{call.name}")(call)

    def content(self) -> Content:
        """What programs see now."""
        return {path: file.content() for path, file in self.now.items()}

    def after_power_cut(self) -> Iterator[Content]:
        """Each folder that a power cut now may leave."""
        for fate in itertools.product((True, False), repeat=len(self.pending)):
            names = _renamed(self.durable, [change for change, kept in zip(self.pending, fate, strict=True) if kept])
            files = list(dict.fromkeys(names.values()))
            for contents in itertools.product(*(file.variants() for file in files)):
                of_file = dict(zip(files, contents, strict=True))
                yield {path: of_file[file] for path, file in names.items()}

    def _open(self, call: Call) -> None:
        if call.other or not call.number & os.O_CREAT:
            if call.number & os.O_TRUNC:
                self.inodes[call.inode].pending.append((0, None))
            return
        self.inodes[call.inode] = File()
        self._name({call.path: self.inodes[call.inode]})

    def _write(self, call: Call) -> None:
        self.inodes[call.inode].pending.append((call.number, call.data))

    def _truncate(self, call: Call) -> None:
        self.inodes[call.inode].pending.append((call.number, None))

    def _fsync(self, call: Call) -> None:
        if call.inode in self.inodes:
            self.inodes[call.inode].flush()
            return
        here = [change for change in self.pending if {os.path.dirname(path) for path in change} == {call.path}]
        self.durable = _renamed(self.durable, here)
        self.pending = [change for change in self.pending if change not in here]

    def _rename(self, call: Call) -> None:
        if self.now[call.path] is not self.now.get(call.target):  # two names of one file: nothing happens
            self._name({call.path: None, call.target: self.now[call.path]})

    def _link(self, call: Call) -> None:
        self._name({call.target: self.now[call.path]})

    def _unlink(self, call: Call) -> None:
        self._name({call.path: None})

    def _name(self, change: dict[str, File | None]) -> None:
        self.now = _renamed(self.now, [change])
        self.pending.append(change)


def _renamed(names, changes):
    merged = dict(names)
    for change in changes:
        merged |= change
    return {path: file for path, file in merged.items() if file is not None}
