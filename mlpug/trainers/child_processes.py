"""Processes that are started while training: a signal that lets the trainer finish its batch leaves them alone."""

from __future__ import annotations

import multiprocessing
import os
import pathlib
import signal
import sys
import threading
import time
from collections.abc import Iterable
from typing import Any
from weakref import WeakSet

_SECONDS_BETWEEN_LOOKS = 0.2  # whether the trainer has ended: only in a process that was sent a signal
_SECONDS_BETWEEN_WAKES = (0.01, 0.05, 0.2, 0.5, 1.0, 2.0, 5.0)  # of a main thread that has a handler to call


class ChildProcesses:
    """While it exists, processes that `multiprocessing` forks from this one outlive some signals as long as it does.

    A scheduler sends its signal to all processes of a job, also to those that load data, which the batch under way
    still needs. A child ends by such a signal when this process has ended, and at once when this process sends it, as
    by ``terminate()``. The children of children are spared like them.

    Where the system doesn't say who has sent a signal (macOS), and for a child that isn't forked by multiprocessing,
    a signal does what it does without mlpug.

    Args:
        numbers: of the signals.
    """

    def __init__(self, numbers: Iterable[signal.Signals]) -> None:
        self._numbers = tuple(numbers)
        self._forking = threading.local()  # the mask of a thread that forks
        if self._numbers and hasattr(signal, "sigwaitinfo"):
            _existing.add(self)

    def pass_on(self, number: int) -> None:
        """Send a signal to those for whose end this process would wait when it ends itself."""
        for child in multiprocessing.active_children():
            if not child.daemon and child.pid is not None:  # multiprocessing ends the others itself
                os.kill(child.pid, number)

    def before_fork(self) -> None:
        """No signal comes to a child before it is known what it does then."""
        self._forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._numbers)

    def after_fork(self) -> None:
        """In this process: signals come again."""
        signal.pthread_sigmask(signal.SIG_SETMASK, self._forking.mask)

    def begin_child(self) -> None:
        """In the new process, before it does anything."""
        for number in self._numbers:
            signal.signal(number, signal.SIG_DFL)  # it was that of the trainer
        if _is_of_multiprocessing():
            # Ctrl-C is left to the trainer, until the child says otherwise: there it does nothing.
            arguments = os.getppid(), self._numbers, signal.getsignal(signal.SIGINT)
            threading.Thread(target=_end_with, args=arguments, daemon=True).start()
        else:
            self.after_fork()


def _is_of_multiprocessing() -> bool:
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__") != "multiprocessing.popen_fork":
        frame = frame.f_back
    return frame.f_back is not None


def _end_with(parent: int, numbers: tuple[signal.Signals, ...], on_ctrl_c: Any) -> None:
    """End by the first signal that the parent sends; by one of somebody else's when the parent has ended.

    The other threads of the process don't get them.
    """
    came = signal.sigwaitinfo(numbers)
    while came.si_pid != parent and os.getppid() == parent:
        came = signal.sigtimedwait(numbers, _SECONDS_BETWEEN_LOOKS) or came
    if signal.getsignal(came.si_signo) == signal.SIG_DFL and _is_caught(came.si_signo):
        # By a library, which can't see any more who has sent it. PyTorch's workers end so where it was their parent.
        os._exit(0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
    os.kill(os.getpid(), came.si_signo)
    # Where the child has a handler of its own, Python calls it on the main thread, which may be waiting for something,
    # or be about to: then it is woken too early, and has to be woken again.
    for seconds in _SECONDS_BETWEEN_WAKES:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        time.sleep(seconds)
        if signal.getsignal(signal.SIGINT) != on_ctrl_c:
            break


def _is_caught(number: int) -> bool:
    try:
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return False
    caught = [int(line.split()[1], 16) for line in lines if line.startswith("SigCgt:")]
    return any(mask >> (number - 1) & 1 for mask in caught)


# What is called at forks is called for good: those that exist are asked then.
_existing: WeakSet[ChildProcesses] = WeakSet()


def _of_existing(method: str) -> None:
    for each in list(_existing):
        getattr(each, method)()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=lambda: _of_existing("before_fork"),
        after_in_parent=lambda: _of_existing("after_fork"),
        after_in_child=lambda: _of_existing("begin_child"),
    )
