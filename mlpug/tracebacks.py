"""Tracebacks of mlpug's own errors: what the script did, without what a host's loop did in between."""

from __future__ import annotations

import sysconfig
from collections.abc import Iterator
from types import FrameType, TracebackType

_OURS = {"mlpug", "mlpug_lightning", "mlpug_keras"}
_LIBRARIES = ("<frozen ", *(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")))


def shorten(error: BaseException) -> None:
    """Leave only frames of the script in the traceback of an error, and in those of its causes.

    Where each was raised stays. A message that says all is easily missed below 50 lines of a host's loop.

    >>> try:
    ...     sysconfig.get_path("none")
    ... except KeyError as error:
    ...     shorten(error)
    ...     [entry.tb_frame.f_code.co_name for entry in _entries(error.__traceback__)]
    ['get_path']
    """
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        link.__traceback__ = _of_script(link.__traceback__)
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _of_script(traceback: TracebackType | None) -> TracebackType | None:
    short: TracebackType | None = None
    for entry in reversed(list(_entries(traceback))):
        if short is None or not _is_of_library(entry.tb_frame):
            short = TracebackType(short, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return short


def _is_of_library(frame: FrameType) -> bool:
    module = str(frame.f_globals.get("__name__", ""))
    return module.partition(".")[0] in _OURS or frame.f_code.co_filename.startswith(_LIBRARIES)


def _entries(traceback: TracebackType | None) -> Iterator[TracebackType]:
    while traceback is not None:
        yield traceback
        traceback = traceback.tb_next
