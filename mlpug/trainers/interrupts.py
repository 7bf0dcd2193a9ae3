"""Ctrl-C: once lets the batch finish, twice stops at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any


class CtrlC:
    """While entered, the first Ctrl-C calls a function, and the second raises KeyboardInterrupt as usual.

    Signals can be handled on the main thread only: training on another thread leaves Ctrl-C as it is.
    """

    def __init__(self, on_first: Callable[[], None]) -> None:
        self._on_first = on_first
        self._presses = 0
        self._process = os.getpid()
        self._previous: Any = None
        self._is_installed = False

    def __enter__(self) -> CtrlC:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._pressed)
            self._is_installed = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_installed:
            # None: a handler that wasn't installed from Python, and can't be from here.
            signal.signal(signal.SIGINT, signal.SIG_DFL if self._previous is None else self._previous)

    def _pressed(self, signal_number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a data-loading process forked while training; it has to live until the batch is done
        self._presses += 1
        if self._presses > 1:
            raise KeyboardInterrupt
        self._on_first()
