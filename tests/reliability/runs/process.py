"""Runs in processes of their own, which may be told to send themselves signals on the way."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import pathlib
import signal
import sys
import threading
import time
from multiprocessing import forkserver
from typing import Any
from unittest import mock

from reliability.runs.hosts import host, preloaded
from reliability.runs.parts import Places, Settings


@dataclasses.dataclass(frozen=True, slots=True)
class Signal:
    """Sent by the process to itself, where it comes by a place for the n-th time."""

    place: str
    passes: int
    number: int
    times: int = 1


class Signalling(Places):
    """Counts how often each place is passed; two places more are file-system calls of a save."""

    def __init__(self, sent: Signal) -> None:
        self._sent = sent
        self._passes = 0
        for name in ("fsync", "replace"):
            setattr(os, name, self._passing(name, getattr(os, name)))

    def _passing(self, name: str, call: Any) -> Any:
        def passing(*arguments: Any) -> Any:
            self(name)
            return call(*arguments)

        return passing

    def __call__(self, place: str) -> None:
        super().__call__(place)
        if place == self._sent.place:
            self._passes += 1
            if self._passes == self._sent.passes:
                for _ in range(self._sent.times):
                    os.kill(os.getpid(), self._sent.number)


class Processes:
    """Starts runs, each in a process that is forked from one which has imported all that a host needs, and no more.

    To import TensorFlow for each of hundreds of runs would take longer than all of them.
    """

    def __init__(self, host_name: str, cache: pathlib.Path) -> None:
        self._host = host_name
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([*preloaded(host_name), __name__])
        variables = {
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),  # it has no other way to find the modules
            "JAX_COMPILATION_CACHE_DIR": str(cache),  # each process compiles the same
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        with mock.patch.dict(os.environ, variables):
            forkserver.ensure_running()

    def start(
        self, settings: Settings, name: str, resume_from: str | None = None, sent: Signal | None = None
    ) -> Started:
        """The run; what it says goes to a file in its folder, and in the end its outcome."""
        folder = pathlib.Path(settings.folder)
        folder.mkdir(parents=True, exist_ok=True)
        arguments = (self._host, settings, folder / f"{name}.txt", folder / f"{name}.json", resume_from, sent)
        process = self._context.Process(target=train, args=arguments)
        with _one_asks:
            process.start()
        return Started(process)

    def run(
        self, settings: Settings, name: str, resume_from: str | None = None, sent: Signal | None = None
    ) -> int | None:
        """The same to its end: the exit status, or None where that didn't come in three minutes."""
        return self.start(settings, name, resume_from, sent).status()


class Started:
    """A run that is under way."""

    def __init__(self, process: multiprocessing.process.BaseProcess) -> None:
        self._process = process

    def status(self, seconds: float = 180.0) -> int | None:
        """The exit status, minus a signal's number where that ended it; None where it hasn't ended by then."""
        end = time.monotonic() + seconds
        while (status := self._status()) is None and time.monotonic() < end:
            time.sleep(0.005)
        return status

    def kill(self) -> int | None:
        """End it by SIGKILL, unless it has ended."""
        if self._status() is None:
            assert self._process.pid is not None
            os.kill(self._process.pid, signal.SIGKILL)
        return self.status()

    def _status(self) -> int | None:
        with _one_asks:
            return self._process.exitcode


_one_asks = threading.Lock()  # whoever asks for a status second finds none


def train(
    host_name: str,
    settings: Settings,
    said: pathlib.Path,
    outcome: pathlib.Path,
    resume_from: str | None,
    sent: Signal | None,
) -> None:
    """In the process: train, and when the script goes on, write the outcome as JSON."""
    output = os.open(said, os.O_CREAT | os.O_WRONLY)
    os.dup2(output, 1)
    os.dup2(output, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    passed = Places() if sent is None else Signalling(sent)
    run = host(host_name).make(settings, passed).train(resume_from)
    outcome.write_text(json.dumps(run.outcome()), encoding="utf-8")
