"""The checker of the order of calls complains about wrong orders, and not about right ones."""

import os

import pytest
from reliability.calls import Call
from reliability.order import disorder

FOLDER, FILE, TEMPORARY = "/runs", "/runs/latest", "/runs/latest.tmp"


def call(name, path=TEMPORARY, target="", number=0, other=0, result=0, inode=7):
    return Call(name, result, 0, 3 if path == FOLDER else inode, path, target, number, other, b"")


CREATE = call("open", number=os.O_CREAT | os.O_WRONLY | os.O_EXCL)
WRITE = call("write", result=1)
FLUSH = call("fsync")
CLOSE = call("close")
RENAME = call("rename", target=FILE)
OPEN_FOLDER = call("open", FOLDER, other=1)
FLUSH_FOLDER = call("fsync", FOLDER)
SAVE = [CREATE, WRITE, WRITE, FLUSH, CLOSE, RENAME, OPEN_FOLDER, FLUSH_FOLDER]
UNLINK = call("unlink", FILE, inode=8)
LINK = call("link", FILE, target="/runs/archive", inode=8)


@pytest.mark.parametrize(
    "calls",
    [
        SAVE,
        [*SAVE, CLOSE],
        [*SAVE, *SAVE],
        [UNLINK, FLUSH_FOLDER],
        [LINK, FLUSH_FOLDER],
        [*SAVE, UNLINK, FLUSH_FOLDER],
        [*SAVE[:3], FLUSH, WRITE, *SAVE[3:]],
        [*SAVE[:3], call("fsync", result=-1), call("unlink"), *SAVE],
        [],
    ],
)
def test_a_right_order_is_right(calls):
    assert disorder(calls) == []


@pytest.mark.parametrize(
    ("calls", "complaint"),
    [
        ([c for c in SAVE if c is not FLUSH], "/runs/latest is named before what was written to it is flushed"),
        ([CREATE, FLUSH, WRITE, RENAME, FLUSH_FOLDER], "/runs/latest is named before"),
        ([CREATE, WRITE, FLUSH, WRITE, RENAME, FLUSH_FOLDER], "/runs/latest is named before"),
        ([CREATE, WRITE, RENAME, FLUSH, FLUSH_FOLDER], "/runs/latest is named before"),
        ([CREATE, WRITE, FLUSH, RENAME], "/runs is not flushed after the change of /runs/latest"),
        ([CREATE, WRITE, FLUSH, FLUSH_FOLDER, RENAME], "/runs is not flushed after the change of"),
        ([CREATE, WRITE, FLUSH, RENAME, FLUSH_FOLDER, UNLINK], "/runs is not flushed after the change of /runs/latest"),
        ([*SAVE, LINK], "/runs is not flushed after the change of /runs/archive"),
        ([UNLINK], "/runs is not flushed after the change of /runs/latest"),
        ([*SAVE, CREATE], "/runs is not flushed after the change of /runs/latest.tmp"),
        ([CREATE, WRITE, FLUSH_FOLDER], "/runs/latest.tmp is never flushed"),
        (
            [call("open", FILE, other=1), call("write", FILE, result=1), call("fsync", FILE)],
            "is written to where it is",
        ),
        ([call("open", FILE, number=os.O_TRUNC, other=1)], "/runs/latest is cut where it is"),
        ([*SAVE[:3], call("fsync", result=-1), *SAVE[4:]], "/runs/latest is named before"),
        ([*SAVE[:-1], call("fsync", FOLDER, result=-1)], "/runs is not flushed"),
        ([*SAVE[:3], call("fsync", result=-1), *SAVE[3:]], "/runs/latest is named although a flush of it failed"),
    ],
)
def test_a_wrong_order_is_named(calls, complaint):
    assert [found for found in disorder(calls) if complaint in found]


def test_the_flush_of_another_file_does_not_count():
    calls = [CREATE, WRITE, call("fsync", inode=9), RENAME, FLUSH_FOLDER]
    assert disorder(calls) != []
