"""Brings a StopIteration of the user's code through a host that would take it for the end of the data."""

from __future__ import annotations

from types import TracebackType


class EscapedStopIterationError(Exception):
    """Carries the StopIteration; an adapter raises what it carries when the host has let it through."""

    def __init__(self, error: StopIteration) -> None:
        super().__init__(error)
        self.error = error


class unwrapped:  # noqa: N801 - used like a function, and a generator can't raise StopIteration
    """Around the host's loop: a StopIteration that was carried through it is raised as it was.

    >>> with unwrapped():
    ...     raise EscapedStopIterationError(StopIteration("in the model"))
    Traceback (most recent call last):
    StopIteration: in the model
    """

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, EscapedStopIterationError):
            raise error.error from None
