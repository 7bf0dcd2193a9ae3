"""Saving while training goes on: what is saved is copied first, and written by a thread."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from mlpug.checkpoints.tensors import Array, RawTensor


class BackgroundSaver:
    """Runs one save at a time, in a thread of its own.

    What a save raises is raised once, by whichever of the methods is called next. The interpreter doesn't exit before
    a save has ended, and logs an error that nobody asked for.

    >>> saver, written = BackgroundSaver(), []
    >>> saver.start(lambda: written.append("latest"))
    >>> saver.wait()
    >>> written
    ['latest']
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Without the save that is under way: a copy has nothing to wait for."""
        return {"_thread": None, "_error": None}

    def start(self, save: Callable[[], None]) -> None:
        """Start a save, when the one before has ended.

        Raises:
            Exception: The one before failed; this one is started nevertheless.
        """
        self._join()
        error, self._error = self._error, None
        # A thread that was just started would keep the interpreter for some ms, and its caller waiting.
        go = threading.Event()
        # Not a daemon, so that the interpreter waits for it, and tells afterwards what nobody has asked for.
        thread = threading.Thread(target=self._run, args=[save, go], name="mlpug-save", daemon=False)
        thread.start()
        go.set()
        self._thread = thread
        atexit.register(self._tell)
        if error is not None:
            raise error

    def check(self) -> None:
        """Raise what a save that has ended raised; cheap, and doesn't wait."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()

    def wait(self) -> None:
        """Return when nothing is being saved any more; raise what the last save raised."""
        self._join()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _run(self, save: Callable[[], None], go: threading.Event) -> None:
        go.wait()
        try:
            save()
        except BaseException as error:  # noqa: BLE001 - raised on the thread that trains
            self._error = error

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            atexit.unregister(self._tell)

    def _tell(self) -> None:
        """At exit, which comes after the thread."""
        if self._error is not None:
            logger = logging.getLogger("mlpug.checkpoints")  # the parent of which is mlpug's own
            logger.error("The last checkpoint was not saved.", exc_info=self._error)


def copied(*states: Any) -> list[Any]:
    """Copies of states, which can be saved while what they were taken from changes.

    Arrays that share all of their memory, in one state or in several, are copied once; on a few threads, because new
    memory is slower to get than to fill. What a checkpoint can't hold stays as it is, for `save` to refuse.

    >>> weight = np.zeros(2)
    >>> model, training = copied({"weight": weight}, {"model": [weight], "epoch": 3})
    >>> weight += 1
    >>> model, training, model["weight"] is training["model"][0]
    ({'weight': array([0., 0.])}, {'model': [array([0., 0.])], 'epoch': 3}, True)
    """
    copies = _Copies()
    made = [copies.of(state) for state in states]
    copies.fill()
    return made


class _Copies:
    """Makes the new arrays first, and fills them then."""

    def __init__(self) -> None:
        self._arrays: dict[Any, tuple[Array, Array]] = {}  # (source, copy)

    def of(self, state: Any) -> Any:
        kind = type(state)
        if kind is dict:
            return {key: self.of(value) for key, value in state.items()}
        if kind is list:
            return [self.of(value) for value in state]
        if kind is np.ndarray:
            return self._copy_of(state)
        if kind is RawTensor:
            return RawTensor(state.dtype, state.shape, self.of(state.data))
        return state

    def fill(self) -> None:
        """The large ones on threads; the small ones meanwhile."""
        pairs = self._arrays.values()
        with ThreadPoolExecutor(_NUM_THREADS, "mlpug-copy") as pool:  # starts threads only when they are given work
            filled = [pool.submit(np.copyto, copy, source) for source, copy in pairs if source.nbytes > _SMALL]
            for source, copy in pairs:
                if source.nbytes <= _SMALL:
                    np.copyto(copy, source)
        for future in filled:
            future.result()

    def _copy_of(self, array: Array) -> Array:
        key = array.__array_interface__["data"][0], array.shape, array.strides, array.dtype.str, array.dtype.name
        if key not in self._arrays:
            self._arrays[key] = array, np.empty_like(array)
        return self._arrays[key][1]


_SMALL = 1 << 16  # bytes
_NUM_THREADS = min(4, os.cpu_count() or 1)
