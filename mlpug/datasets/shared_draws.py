"""Finds a dataset and a model that draw from the same random numbers in turn."""

from __future__ import annotations

import warnings

from mlpug.datasets import random_states
from mlpug.datasets.random_states import Snapshot
from mlpug.errors import MlpugWarning

_NUM_LOOKS = 10  # batches of a round: enough to see what is drawn for each


class SharedDraws:
    """Looks at the first batches of each round, and warns once where a resumed run may not get the same data.

    Of a round that is begun again to be resumed, the batches that are done are asked for once more, without what others
    drew in between. That matters where the dataset keeps what it drew then.
    """

    def __init__(self) -> None:
        self._is_done = False
        self._count = 0
        self._before: Snapshot | None = None
        self._after: Snapshot | None = None

    def round_begins(self) -> None:
        """The next batch is the first one."""
        self._count, self._before, self._after = 0, None, None

    def before_pull(self) -> None:
        """A batch will be asked for."""
        self._before = None if self._is_done or self._count > _NUM_LOOKS else random_states.capture()

    def after_pull(self) -> None:
        """It is there."""
        self._count += 1
        if self._before is None:
            return
        before, previous, self._after = self._before, self._after, random_states.capture()
        if previous is None:  # what a first batch draws is drawn again, from the state that was kept
            return
        shared = random_states.changed(previous, before) & random_states.changed(before, self._after)
        if shared:
            self._is_done = True
            warnings.warn(
                f"The training dataset draws from the global random numbers of {', '.join(sorted(shared))} for each "
                "batch, and something else, such as the model, draws from them in between. If the dataset keeps what "
                "it drew for later batches, as a shuffle buffer does, a resumed run gets other batches than this one "
                "would have had. Give TrainingManager(..., seed=...), or give the dataset a random generator of its "
                "own, in an attribute.",
                MlpugWarning,
                stacklevel=4,
            )
