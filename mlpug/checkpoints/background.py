"""Saving while training goes on: what is saved is copied first, and written by a thread."""

from __future__ import annotations

import atexit
import logging
import threading
from collections.abc import Callable
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

    def start(self, save: Callable[[], None]) -> None:
        """Start a save, when the one before has ended.

        Raises:
            Exception: The one before failed; this one is started nevertheless.
        """
        self._join()
        error, self._error = self._error, None
        # Not a daemon, so that the interpreter waits for it, and tells afterwards what nobody has asked for.
        thread = threading.Thread(target=self._run, args=[save], name="mlpug-save", daemon=False)
        thread.start()
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

    def _run(self, save: Callable[[], None]) -> None:
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


class Copier:
    """Copies states, so that they can be saved while what they were taken from changes.

    Arrays that share all of their memory, in one state or in several, are copied once.

    >>> weight, copier = np.zeros(2), Copier()
    >>> model, training = copier.copied({"weight": weight}), copier.copied({"model": [weight], "epoch": 3})
    >>> weight += 1
    >>> model, training, model["weight"] is training["model"][0]
    ({'weight': array([0., 0.])}, {'model': [array([0., 0.])], 'epoch': 3}, True)
    """

    def __init__(self) -> None:
        self._copies: dict[Any, Array] = {}
        self._sources: list[Array] = []  # kept: memory that is let go of can become another array's

    def copied(self, state: Any) -> Any:
        """The state with arrays of its own; what a checkpoint can't hold stays, for `save` to refuse."""
        kind = type(state)
        if kind is dict:
            return {key: self.copied(value) for key, value in state.items()}
        if kind is list:
            return [self.copied(value) for value in state]
        if kind is np.ndarray:
            return self._copy(state)
        if kind is RawTensor:
            return RawTensor(state.dtype, state.shape, self.copied(state.data))
        return state

    def _copy(self, array: Array) -> Array:
        key = array.__array_interface__["data"][0], array.shape, array.strides, array.dtype.str, array.dtype.name
        if key not in self._copies:
            self._sources.append(array)
            self._copies[key] = array.copy(order="K")
        return self._copies[key]
