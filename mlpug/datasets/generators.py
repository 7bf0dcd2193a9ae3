"""The random generators that a dataset or a model has of its own, wherever they sit in it.

Each is known by the path to it. Those that all share, Python's, numpy's and torch's, are in `random_states`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import numpy as np

from mlpug.datasets import random_states
from mlpug.datasets.generator_kinds import identity, ids_of_shared, is_generator, kind_of, state_of
from mlpug.datasets.reachable import MAX_OBJECTS, Steps, reachable, resolve
from mlpug.errors import CheckpointMismatchError, MlpugWarning

_SMALL = 1000  # objects that are looked through at each save, in some milliseconds


class OwnGenerators:
    """The random generators that can be reached from some objects, looked for anew each time.

    What is made only while training is left out, and named in a warning: a resumed run couldn't give it its state
    before somebody draws from it.

    Args:
        roots: datasets, loaders, models.
        whose: what they are, for messages.
        is_wanted: which random generators are looked for.
        is_left_out: what is not looked into.
    """

    def __init__(
        self,
        *roots: Any,
        whose: str = "training dataset",
        is_wanted: Callable[[type], bool] = is_generator,
        is_left_out: Callable[[type], bool] | None = None,
    ) -> None:
        self._root = roots[0] if len(roots) == 1 else roots
        self._starts: list[tuple[Steps, Any]] = [((), roots[0])] if len(roots) == 1 else _numbered(roots)
        self._whose = whose
        self._is_wanted = is_wanted
        self._is_left_out = is_left_out
        self._steps: dict[str, Steps] = {}  # to each of those that were found last
        self._is_small = False
        self._from_start: set[str] | None = None  # the paths of those that were there first
        self._has_told = False

    def states(self) -> dict[str, Any]:
        """Their states now, by the paths to them, as a checkpoint holds them; all is looked through."""
        found = self._find()
        if self._from_start is None:
            self._from_start = set(found)
        self._tell_of_late(found.keys() - self._from_start)
        return {path: state_of(generator) for path, generator in found.items() if path in self._from_start}

    def states_where_found(self) -> dict[str, Any]:
        """The same of those that were found last, where they are now: cheap enough for each batch."""
        if self._from_start is None:
            return self.states()
        found = {path: resolve(self._root, steps) for path, steps in self._steps.items() if path in self._from_start}
        if not all(is_generator(type(generator)) for generator in found.values()):
            return self.states()
        return {path: state_of(generator) for path, generator in found.items()}

    def states_to_save(self) -> dict[str, Any]:
        """The same for a checkpoint: everything is looked through once more where that takes some milliseconds."""
        return self.states() if self._is_small else self.states_where_found()

    def set_states(self, states: Mapping[str, Any] | Sequence[Any]) -> None:
        """Give them back what `states` gave.

        Args:
            states: also a list, as older checkpoints have it, of those that `_nearest` finds.

        Raises:
            CheckpointMismatchError: there were others.
        """
        found = self._find()
        if not isinstance(states, Mapping):
            found = dict(list(found.items())[: len(states)])
            more = [f"the number {number}" for number in range(len(found), len(states))]
            states = dict(zip([*found, *more], states, strict=True))
        expected = found.keys() if self._from_start is None else found.keys() & (self._from_start | states.keys())
        self._from_start = set(states)
        if expected != states.keys():
            others = ", ".join(sorted(map(repr, expected ^ states.keys())))
            raise CheckpointMismatchError(
                f"The {self._whose} has {len(expected)} random generators of its own, and had {len(states)} when the "
                f"checkpoint was made: {others} is in one of them only. Make the {self._whose} as it was made then."
            )
        for path in expected:
            self._set_state(path, found[path], states[path])

    def seed(self, seed: int, epoch: int) -> None:
        """Make what they draw a function of these and of their order."""
        for place, generator in enumerate(self._find().values()):
            kind_of(generator).seed(generator, np.random.SeedSequence([seed, epoch, place]))

    def _find(self) -> dict[str, Any]:
        reached = reachable(self._root, self._is_wanted, self._is_left_out)
        if not reached.is_whole:
            self._tell_of_limit()
        found, steps_to = {}, {}
        ids = set(ids_of_shared())
        for steps, generator in {**self._nearest(), **reached.found}.items():
            if identity(generator) not in ids:
                ids.add(identity(generator))
                path = "".join(steps).lstrip(".")
                found[path], steps_to[path] = generator, steps
        self._steps, self._is_small = steps_to, reached.size <= _SMALL
        return found

    def _nearest(self) -> dict[Steps, Any]:
        """Those in attributes, and in those of what is its `dataset`, `sampler` and `batch_sampler`, and so on.

        They come first, in this order: older checkpoints have a list of these alone.
        """
        found: dict[Steps, Any] = {}
        seen: set[int] = set()
        for start in self._starts:
            holders = [start]
            for steps, holder in holders:  # grows on the way
                attributes = getattr(holder, "__dict__", {})
                if id(holder) not in seen:
                    seen.add(id(holder))
                    named = {(*steps, f".{name}"): value for name, value in attributes.items()}
                    found |= {name: value for name, value in named.items() if self._is_wanted(type(value))}
                    parts = ("dataset", "sampler", "batch_sampler")
                    holders += [((*steps, f".{name}"), attributes[name]) for name in parts if name in attributes]
        return found

    def _set_state(self, path: str, generator: Any, state: Any) -> None:
        try:
            kind_of(generator).set_state(generator, state)
        except (ValueError, TypeError, KeyError, RuntimeError, AttributeError) as error:
            raise CheckpointMismatchError(
                f"The {self._whose}'s {type(generator).__name__} is of another kind than the random generator that the "
                f"checkpoint has at {path!r} ({error}). Make the {self._whose} as it was made then."
            ) from error

    def _tell_of_late(self, late: set[str]) -> None:
        if late and not self._has_told:
            self._has_told = True
            warnings.warn(
                f"The {self._whose} has made random generators of its own since training started: "
                f"{', '.join(sorted(map(repr, late)))}. What they draw isn't the same in a resumed run, because their "
                "states aren't in checkpoints. Make them where the object that has them is made, in its __init__.",
                MlpugWarning,
                stacklevel=4,
            )

    def _tell_of_limit(self) -> None:
        if not self._has_told:
            self._has_told = True
            warnings.warn(
                f"The {self._whose} is made of more than {MAX_OBJECTS:,} objects, and random generators were looked "
                "for in the nearest of them only: those farther away aren't in checkpoints. Keep generators in "
                "attributes of the dataset itself, or of its sampler, collate_fn or transform.",
                MlpugWarning,
                stacklevel=4,
            )


def with_states(own: OwnGenerators) -> dict[str, Any]:
    """The global random state and that of these generators, as a checkpoint holds it."""
    return {"shared": random_states.as_plain(random_states.capture()), "own": own.states()}


def restore_with_states(state: dict[str, Any], own: OwnGenerators) -> None:
    """Make them what they were."""
    random_states.restore(random_states.from_plain(state["shared"]))
    own.set_states(state["own"])


def of_models(models: Sequence[Any]) -> OwnGenerators:
    """Those of models, for which nobody else cares: Keras's are in the state of its layers, the data has its own."""
    return OwnGenerators(*models, whose="model", is_wanted=_is_of_no_layer, is_left_out=_is_data)


def _is_of_no_layer(kind: type) -> bool:
    return is_generator(kind) and kind.__module__.partition(".")[0] != "keras"


def _is_data(kind: type) -> bool:
    return any(
        library in sys.modules and issubclass(kind, attrgetter(name)(sys.modules[library]))
        for library, name in _KINDS_OF_DATA
    )


_KINDS_OF_DATA = (
    ("torch", "utils.data.Dataset"),
    ("torch", "utils.data.DataLoader"),
    ("torch", "utils.data.Sampler"),
    ("keras", "utils.PyDataset"),
    ("tensorflow", "data.Dataset"),
)


def _numbered(roots: Sequence[Any]) -> list[tuple[Steps, Any]]:
    return [((f"[{number}]",), root) for number, root in enumerate(roots)]
