"""The validation loaders of a LightningModule's run: a resumed run has those that the stopped one had."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from mlpug.datasets import random_states
from mlpug.datasets.generators import OwnGenerators
from mlpug.datasets.random_states import Snapshot
from mlpug_lightning.host import as_in_epoch, validation_loop
from mlpug_lightning.observed_loader import combined


class ValidationLoaders:
    """Notes the random state before Lightning asks for them, and what their own random generators are.

    Args:
        trainer: Lightning's.
        resumed: what `state` gave in the run that goes on; None: it begins.
    """

    def __init__(self, trainer: Any, resumed: Mapping[str, Any] | None) -> None:
        self._trainer = trainer
        self._resumed = resumed
        self._before: Snapshot | None = None
        self._asked_in: int | None = None  # Lightning's epoch
        self._generators = OwnGenerators()
        self._noted: Any = None  # states of the generators before a validation that is under way

    def request(self, ask: Callable[[], Any]) -> Any:
        """Lightning asks for them."""
        resumed, self._resumed = self._resumed, None
        if resumed is None or resumed["before"] is None:
            self._before, self._asked_in = random_states.capture(), self._trainer.current_epoch
            given = ask()
            self._generators = _generators_of(given)
            return given
        outer = random_states.capture()
        self._before, self._asked_in = random_states.from_plain(resumed["before"]), resumed["asked_in"]
        random_states.restore(self._before)
        with as_in_epoch(self._trainer, self._asked_in):
            given = ask()
        random_states.restore(outer)
        validation_loop(self._trainer)._last_val_dl_reload_epoch = self._asked_in
        self._generators = _generators_of(given)
        self._generators.set_states(resumed["generators"])
        return given

    def validation_begins(self) -> None:
        """Its loaders will draw."""
        self._noted = self._generators.states()

    def validation_ended(self) -> None:
        """None is under way."""
        self._noted = None

    def state(self) -> dict[str, Any]:
        """As a checkpoint holds it."""
        if self._resumed is not None:  # nobody has asked yet
            return dict(self._resumed)
        return {
            "before": None if self._before is None else random_states.as_plain(self._before),
            "asked_in": self._asked_in,
            "generators": self._generators.states() if self._noted is None else self._noted,
        }


def _generators_of(given: Any) -> OwnGenerators:
    return OwnGenerators(*combined(given).flattened, whose="validation data")
