"""The hooks of a `keras.utils.PyDataset` between epochs, which a resumed run calls again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from mlpug.datasets import random_states
from mlpug.datasets.generators import OwnGenerators, restore_with_states, with_states


class EpochHooks:
    """Notes the calls of a dataset's `on_epoch_begin` and `on_epoch_end`, and repeats them.

    What a hook makes of the data may depend on all calls before it. The random states before a call are kept for the
    first one, and then only for those before which somebody else has drawn.

    Args:
        dataset: any kind of data; only a PyDataset with hooks of its own has something to note.
        begins_with_reset: whether a run's first call stands among the noted ones already.

    Attributes:
        is_needed: whether the data has hooks.
    """

    def __init__(self, dataset: Any, begins_with_reset: bool) -> None:
        self._dataset = dataset
        self._own = OwnGenerators(dataset)
        self._begins_with_reset = begins_with_reset
        self.is_needed = isinstance(dataset, keras.utils.PyDataset) and any(
            getattr(type(dataset), name) is not getattr(keras.utils.PyDataset, name)
            for name in ("on_epoch_begin", "on_epoch_end")
        )
        self._calls: list[tuple[str, Any]] = []  # (hook, random states before it, or None where nobody has drawn)
        self._after: Any = None
        self._to_repeat: dict[str, Any] | None = None
        self._before_last: Callable[[], None] | None = None

    def call(self, name: str, original: Callable[[], None]) -> None:
        """Do what Keras does at this moment, and note it."""
        if not self.is_needed:
            original()
            return
        if self._to_repeat is not None:
            state, self._to_repeat = self._to_repeat, None
            self._repeat(state)
            if self._begins_with_reset and self._calls and self._calls[-1][0] == name:
                return
        before = with_states(self._own)
        self._calls.append((name, None if random_states.is_same_plain(before, self._after) else before))
        original()
        self._after = with_states(self._own)

    def state(self, is_within: bool) -> dict[str, Any]:
        """The calls so far; within an epoch without those since it began, which Keras will do again."""
        calls = self._calls
        if is_within and calls:
            begun = [place for place, (name, _) in enumerate(calls) if name == "on_epoch_begin"]
            calls = calls[: begun[-1] if begun else -1]
        return {"calls": [list(call) for call in calls]}

    def set_state(self, state: dict[str, Any], before_last: Callable[[], None] | None = None) -> None:
        """Repeat them when Keras calls a hook for the first time.

        Args:
            state: what `state` gave.
            before_last: called before the end of the latest epoch is repeated, as a part of that epoch.
        """
        self._to_repeat = state if state["calls"] and self.is_needed else None
        self._before_last = before_last

    def _repeat(self, state: dict[str, Any]) -> None:
        outer = random_states.capture()
        last = len(state["calls"]) - 1
        for place, (name, before) in enumerate(state["calls"]):
            if place == last and name == "on_epoch_end" and self._before_last is not None:
                self._before_last()
            if before is not None:
                restore_with_states(before, self._own)
            getattr(self._dataset, name)()
            self._calls.append((name, before))
        self._after = with_states(self._own)
        random_states.restore(outer)
