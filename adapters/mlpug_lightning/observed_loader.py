"""Lightning's `CombinedLoader` as it is, except that somebody stands between it and the loop that iterates it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from mlpug_lightning.host import CombinedLoader


class Watch(Protocol):
    """Stands between a `CombinedLoader` and Lightning's loop."""

    def iterate(self, loader: Any, make_iterators: Callable[[], Any], pull: Callable[[], Any]) -> None:
        """An epoch's iterators are wanted: make them; `pull` gives what the loader would give next."""

    def next_batch(self) -> Any:
        """The batch that the loop gets; StopIteration ends its epoch."""

    def length(self, num_batches: float) -> Any:
        """How many batches the loop gets of so many."""

    def before_reset(self) -> None:
        """The iterators will be dropped."""


def combined(given: Any) -> Any:
    """What Lightning makes of what it is given to train on: a `CombinedLoader`, if it isn't one."""
    return given if isinstance(given, CombinedLoader) else CombinedLoader(given, "max_size_cycle")


def observed(loader: Any, watch: Watch) -> Any:
    """The same loader for Lightning's loop: of its own class, with its own attributes, so that who asks it sees it."""
    kind: Any = type(loader)

    class Observed(kind):  # type: ignore[misc]  # whatever kind of CombinedLoader it is
        def __iter__(self) -> Any:
            watch.iterate(self, lambda: kind.__iter__(self), lambda: kind.__next__(self)[0])
            return self

        def __next__(self) -> Any:
            return watch.next_batch(), 0, 0  # the loop counts batches itself

        def __len__(self) -> int:
            return watch.length(kind.__len__(self))  # type: ignore[no-any-return]

        @property
        def batch_sampler(self) -> Any:
            found = kind.batch_sampler.fget(self)
            if not hasattr(found, "batch_size"):  # none, or one of each loader; strategies look whether there is one
                raise AttributeError("batch_sampler")
            return found

        def reset(self) -> None:
            watch.before_reset()
            kind.reset(self)

    Observed.__name__ = kind.__name__  # as warnings have it
    seen = Observed.__new__(Observed)
    seen.__dict__ = vars(loader)
    return seen
