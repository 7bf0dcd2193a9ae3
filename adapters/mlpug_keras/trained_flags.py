"""Which layers and variables are trained, where a run changes that after it has started."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras

from mlpug_keras.components import trainables

KEY = "trained"  # in the state of a run; mlpug 0.1 had none


class TrainedFlags:
    """Notes them when training starts, and knows which are others since then.

    On TensorFlow a step that is compiled goes on as it was traced, whatever is frozen later: so what they were then is
    kept too, and is what a resumed run traces its step with. On JAX nothing is kept, because nothing may change there.

    Args:
        parts: gives layers, by name.
    """

    def __init__(self, parts: Callable[[], Mapping[str, Any]]) -> None:
        self._parts = parts
        self._at_start: dict[str, bool] | None = None
        self._traced: dict[str, bool] | None = None

    def note(self) -> None:
        """When every hook at the start of training was called."""
        if keras.config.backend() == "tensorflow":
            self._at_start, self._traced = self._now(), None

    @contextmanager
    def as_traced(self) -> Iterator[None]:
        """Within, they are what they are when this is entered for the first time, also in the run that is resumed."""
        if self._at_start is None or self._traced is None:
            self._traced = self._now()
            yield
            return
        now = self._now()
        self._set(self._traced)
        try:
            yield
        finally:
            self._set(now)

    @contextmanager
    def built_as(self, state: Mapping[str, Any]) -> Iterator[None]:
        """Within, they are what they were when the run that is resumed made its step, which builds a model too."""
        now = self._now()
        traced = state.get("traced")
        then: Mapping[str, bool] = state.get("now", {}) if traced is None else traced
        self._set({**now, **then})
        try:
            yield
        finally:
            self._set(now)

    def state(self) -> dict[str, Any]:
        """Those that have changed, by path: now, and when the step was traced."""
        traced = None if self._traced is None else self._changed(self._traced)
        return {"now": self._changed(self._now()), "traced": traced} if self._at_start is not None else {}

    def give_back(self, state: Mapping[str, Any]) -> None:
        """After `note`: what `state` gave, or nothing."""
        if self._at_start is None or not state:
            return
        if state["traced"] is not None:
            self._traced = {**self._at_start, **state["traced"]}
        self._set({**self._at_start, **state["now"]})

    def _now(self) -> dict[str, bool]:
        return {path: bool(each.trainable) for path, each in self._all()}

    def _changed(self, flags: Mapping[str, bool]) -> dict[str, bool]:
        start = self._at_start or {}
        return {path: flag for path, flag in flags.items() if start.get(path, flag) != flag}

    def _set(self, flags: Mapping[str, bool]) -> None:
        # A layer comes before those in it, and before its variables: it sets theirs too.
        for path, each in self._all():
            if flags.get(path, each.trainable) != each.trainable:
                each.trainable = flags[path]

    def _all(self) -> Iterator[tuple[str, Any]]:
        for name, part in self._parts().items():
            if isinstance(part, keras.layers.Layer):
                for path, each in trainables(part):
                    yield f"{name}/{path}", each
