"""The order in which calls have to come for a power cut to lose nothing, checked on a record of them."""

from __future__ import annotations

import os

from reliability.calls import Call


def disorder(calls: list[Call]) -> list[str]:
    """What is wrong with the order of calls of an operation that has returned; nothing, where it is right.

    A file gets its final name by a rename or a link when all that was written to it is flushed; files that were there
    before are never written to; and when the operation returns, every change of names is flushed, by an fsync of its
    folder, and so is every file. A file of which one flush failed is lost: systems drop what they could not write, and
    the next flush says that all is well.

    >>> written = Call("write", 1, 0, 7, "/a/b.tmp", "", 0, 1, b"x")
    >>> renamed = Call("rename", 0, 0, 7, "/a/b.tmp", "/a/b", 0, 0, b"")
    >>> disorder([written, renamed])[0]
    '/a/b is named before what was written to it is flushed'
    """
    watch = _Watch()
    for call in calls:
        watch.see(call) if call.result >= 0 else watch.see_failure(call)
    return watch.complaints + watch.at_the_end()


class _Watch:
    def __init__(self):
        self.complaints: list[str] = []
        self.existing: set[int] = set()  # inodes that were there before
        self.unflushed: dict[int, str] = {}  # inode: path of a file that was written to
        self.lost: dict[int, str] = {}  # inode: path of a file of which a flush failed
        self.renamed: dict[str, str] = {}  # folder: the last name that was changed in it

    def see(self, call: Call) -> None:
        see = getattr(self, f"_{call.name}", None)
        if see is not None:
            see(call)

    def see_failure(self, call: Call) -> None:
        if call.name == "fsync" and call.inode in self.unflushed:
            self.lost[call.inode] = call.path

    def at_the_end(self) -> list[str]:
        files = [f"{path} is never flushed" for path in self.unflushed.values()]
        return files + [f"{folder} is not flushed after the change of {name}" for folder, name in self.renamed.items()]

    def _open(self, call):
        if call.other and not call.number & os.O_TRUNC:
            self.existing.add(call.inode)
        elif call.other:
            self.complaints.append(f"{call.path} is cut where it is")
        elif call.number & os.O_CREAT:
            self.existing.discard(call.inode)  # a number may come back
            self.lost.pop(call.inode, None)
            self._changed(call.path)

    def _write(self, call):
        self.unflushed[call.inode] = call.path
        if call.inode in self.existing:
            self.complaints.append(f"{call.path} is written to where it is")

    _truncate = _write
    _mmap = _write

    def _fsync(self, call):
        self.unflushed.pop(call.inode, None)
        self.renamed.pop(call.path, None)

    def _rename(self, call):
        self._named(call)
        self._changed(call.path)

    def _link(self, call):
        self._named(call)

    def _named(self, call):
        if call.inode in self.unflushed:
            self.complaints.append(f"{call.target} is named before what was written to it is flushed")
        if call.inode in self.lost:
            self.complaints.append(f"{call.target} is named although a flush of it failed")
        self._changed(call.target)

    def _unlink(self, call):
        self.lost.pop(call.inode, None)
        self.unflushed.pop(call.inode, None)
        self._changed(call.path)

    def _changed(self, path):
        self.renamed[os.path.dirname(path)] = path
