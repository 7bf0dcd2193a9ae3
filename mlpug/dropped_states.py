"""States of callbacks that a run leaves unused when it goes on from a checkpoint."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from mlpug.errors import MlpugWarning

# mlpug's own that only look: without them a run goes on just as well.
_OBSERVERS = re.compile(
    "CheckpointManager|DescribeLogsObject|History of (batches|epochs)|(Training|Test|Dataset)MetricsLogger: .*"
    "|(Auto)?Tensorboard: .*|mlpug: .*",  # the last: all those of as_native in one, which have states of their own too
    re.DOTALL,
)


def warn_of_dropped_states(states: Mapping[str, Any], here: Iterable[str]) -> None:
    """Name the callbacks whose states nobody takes.

    Args:
        states: of the checkpoint, by the names that they are kept under.
        here: the names of this run.

    >>> warn_of_dropped_states({"Patience": {}, "CheckpointManager": {"best": 0.5}, "Seen": [3]}, ["Seen"])
    """
    names = list(here)
    dropped = [
        name for name, state in states.items() if name not in names and _has_any(state) and not is_observer(name)
    ]
    if not dropped:
        return
    new = [name for name in names if name not in states]
    others = f" The checkpoint has none of {_listed(new)}, which this run has." if new else ""
    warnings.warn(
        f"The checkpoint has the state of {_listed(dropped)}, which isn't among the callbacks of this run: it is "
        f"dropped.{others} Where a callback was renamed, give it the name that it had, to go on as it was; if it was "
        "removed on purpose, all is well.",
        MlpugWarning,
        stacklevel=3,
    )


def warn_of_missing_states(names: Iterable[str]) -> None:
    """Name the callbacks that begin anew in a run which goes on from a checkpoint of ``as_native``.

    Args:
        names: of those of which the checkpoint has no state, because another than ``as_native`` called them.

    >>> warn_of_missing_states([])
    """
    missing = list(names)
    if missing:
        warnings.warn(
            "The checkpoint was made by as_native in a run of the host's own, and has no state of "
            f"{_listed(missing)}: what was counted and found there, such as the best value and the patience, begins "
            "anew. To go on with it, train by a TrainingManager from the start, where states are kept.",
            MlpugWarning,
            stacklevel=3,
        )


def is_observer(name: str) -> bool:
    """Whether a callback of that name is one of mlpug's own that only looks.

    >>> is_observer("TrainingMetricsLogger: training.batch.loss"), is_observer("LRSchedulerWrapper: *")
    (True, False)
    """
    return _OBSERVERS.fullmatch(name) is not None


def _has_any(state: Any) -> bool:
    """Whether there is anything in it."""
    if isinstance(state, Mapping):
        return any(_has_any(value) for value in state.values())
    if isinstance(state, (list, tuple)):
        return any(_has_any(value) for value in state)
    return state is not None


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"the callback {name!r}" for name in names)
