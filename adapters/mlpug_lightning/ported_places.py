"""Where in its data a LightningModule's run is: what a checkpoint holds of it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mlpug.chunks import Group
from mlpug.datasets import random_states
from mlpug.datasets.any_iterable import AnyIterable, tensor_from_plain, tensor_to_plain
from mlpug.datasets.fingerprint import differences
from mlpug.datasets.random_states import Snapshot
from mlpug.errors import CheckpointMismatchError, MlpugWarning
from mlpug.plain import from_plain, to_plain
from mlpug_lightning.ported_rounds import Loaders, Round

READ_AS = "DrawnByLightning"


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A batch that was asked for, and what was noted before."""

    batch: Any
    generators: Any  # states of the loaders' own random generators
    loaders: list[Any]  # states of the loaders that have one
    stream: Snapshot | None = None  # of the round


@dataclass(slots=True)
class Place:
    """Where a run is in its data.

    Between two epochs it has no round: the next one is drawn by Lightning as if nothing had been.
    """

    before_request: Snapshot | None  # before the loaders were asked for; None: they never were
    requested_in: int | None  # the epoch in which they were, as Lightning counts
    generators: Any = None  # states, now
    loaders: list[Any] = field(default_factory=list)
    round: Round | None = None
    batches: int = 0  # of the loaders, trained on in this round
    ahead: list[Any] = field(default_factory=list)  # batches that were asked for and can't be again as they were
    num_ahead: int = 0  # of the loaders
    of_loaders: dict[str, Any] = field(default_factory=dict)
    fingerprints: list[Any] = field(default_factory=list)  # of loaders that only Lightning knows

    def to_plain(self) -> dict[str, Any]:
        """As a checkpoint holds it."""
        before = None if self.before_request is None else random_states.as_plain(self.before_request)
        ahead = [list(batch) if isinstance(batch, Group) else [batch] for batch in self.ahead]
        return {
            "read_as": READ_AS,
            "before_request": before,
            "requested_in": self.requested_in,
            "generators": self.generators,
            "loaders": self.loaders,
            "round": None if self.round is None else self.round.to_plain(),
            "batches": self.batches,
            "ahead": [[to_plain(batch, tensor_to_plain, path=("data",)) for batch in group] for group in ahead],
            "of_loaders": self.of_loaders,
            "fingerprints": self.fingerprints,
        }

    @classmethod
    def from_plain(cls, state: dict[str, Any]) -> Place:
        """It again.

        Raises:
            CheckpointMismatchError: the data was read by something else.
        """
        if state["read_as"] != READ_AS:
            raise CheckpointMismatchError(
                f"The training checkpoint is of a run whose data was read as {state['read_as']}, and not by Lightning: "
                "its place in the data means nothing here. Resume it in a run of the same kind, or load the weights "
                "alone, by mlp.load_model_checkpoint(path)."
            )
        before, of_round = state["before_request"], state["round"]
        return cls(
            before_request=None if before is None else random_states.from_plain(before),
            requested_in=state["requested_in"],
            generators=state["generators"],
            loaders=state["loaders"],
            round=None if of_round is None else Round.from_plain(of_round),
            batches=state["batches"],
            ahead=[[from_plain(batch, tensor_from_plain) for batch in group] for group in state["ahead"]],
            num_ahead=sum(map(len, state["ahead"])),
            of_loaders=state["of_loaders"],
            fingerprints=state.get("fingerprints", []),  # mlpug 0.1 had none
        )

    def ahead_again(self, group_size: int) -> list[Any]:
        """The batches that were asked for, as Lightning gets them."""
        return [Group(batches) if group_size > 1 else batches[0] for batches in self.ahead]

    def give_back(self, loaders: Loaders) -> None:
        """Before an epoch begins: what generators and loaders were."""
        if self.generators is not None:
            loaders.load(self.loaders)
            loaders.generators.set_states(self.generators)


def check_fingerprints(place: Place, here: Sequence[Any], warns: bool) -> None:
    """Compare loaders with those of the checkpoint, where they aren't in the script and nobody could before.

    Raises:
        CheckpointMismatchError: they are others, and the checkpoint was made within an epoch.
    """
    if not (place.fingerprints and here):
        return
    if len(place.fingerprints) != len(here):
        differs = [f"there were {len(place.fingerprints)} loaders, and there are {len(here)}"]
    else:
        names = [""] if len(here) == 1 else [f"of loader {number} " for number in range(len(here))]
        pairs = zip(names, place.fingerprints, here, strict=True)
        differs = [f"{name}{what}" for name, saved, now in pairs for what in differences(saved, now)]
    if not differs:
        return
    what = f"The training data isn't like that of the checkpoint: {'; '.join(differs)}."
    if place.round is not None:
        raise CheckpointMismatchError(
            f"{what} The checkpoint was made within an epoch, so that its place in the data is unknown. Give the same "
            "data; after a whole epoch it can change."
        )
    if warns:
        warnings.warn(
            f"{what} Training goes on with the data of now; a run that never stopped would have had the other.",
            MlpugWarning,
            stacklevel=2,
        )


def warn_if_not_again(kinds: Sequence[AnyIterable]) -> None:
    """Say which loaders can't give a resumed run the same batches again."""
    for why in filter(None, (kind.why_not_again() for kind in kinds)):
        warnings.warn(why, MlpugWarning, stacklevel=2)
