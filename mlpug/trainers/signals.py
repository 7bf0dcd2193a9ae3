"""Ctrl-C and preemption: the first signal lets the batch finish, the second ends at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from mlpug.trainers.child_processes import ChildProcesses

_PREEMPTION = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name))


class Signals:
    """While entered, the first Ctrl-C, SIGTERM, SIGUSR1 or SIGHUP calls a function; a second one ends at once as usual.

    Signals can be handled on the main thread only: training on another thread leaves them as they are. A handler that
    the script has installed for SIGTERM, SIGUSR1 or SIGHUP stays. See `ChildProcesses` for what becomes of those.

    Attributes:
        received: the signal that came first, or None.
    """

    def __init__(self, on_first: Callable[[signal.Signals], None]) -> None:
        self._on_first = on_first
        self._process = os.getpid()
        self._previous: dict[signal.Signals, Any] = {}
        self._children: ChildProcesses | None = None
        self.received: signal.Signals | None = None

    @property
    def exit_status(self) -> int | None:
        """What the process has to end with, by the convention of shells; None where it goes on."""
        received = self.received
        return None if received is None or received == signal.SIGINT else 128 + received

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, *_PREEMPTION):
                if number == signal.SIGINT or signal.getsignal(number) == signal.SIG_DFL:
                    self._previous[number] = signal.signal(number, self._came)
        self._children = ChildProcesses(number for number in self._previous if number != signal.SIGINT)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, previous in self._previous.items():
            # None: a handler that wasn't installed from Python, and can't be from here.
            signal.signal(number, signal.SIG_DFL if previous is None else previous)
        children, self._children = self._children, None
        if self.exit_status is not None and children is not None:
            children.pass_on(self.exit_status - 128)

    def _came(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            if number != signal.SIGINT:  # whoever forked this process may end it
                _end_by(number)
            return  # a data-loading process forked while training; it has to live until the batch is done
        if self.received is None:
            self.received = signal.Signals(number)
            self._on_first(self.received)
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            _end_by(number)


def _end_by(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
