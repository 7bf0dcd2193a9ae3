"""What every kind of dataset can be asked for, and the answers that fit most of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from mlpug.plain import from_plain, to_plain


class AnyIterable:
    """What can be iterated again and again: batches that are done are asked for once more, and dropped.

    That gives the same batches where they depend on the global random state alone, or on generators that are kept in
    attributes of the dataset.

    Attributes:
        dataset: the dataset.
        draws: whether it may draw random numbers when it is asked for a batch.
        keeps_ahead: whether a batch that was asked for, and not trained on yet, has to be kept to be there again.
        asks_again: whether batches that are done are asked for again, without what the model drew in between.
        can_begin_again: whether it can be iterated again from its start.
        reads_ahead: whether it is read ahead in the background, by which its random generators have been drawn from.
    """

    draws = True
    keeps_ahead = False
    asks_again = True
    can_begin_again = True
    reads_ahead = False

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.draws_alone = False  # from random numbers of its own, which come from a seed

    def seed(self, seed: int) -> None:
        """Make what it draws from no generator of Python a function of the seed, before the first round."""
        self.draws_alone = True

    def before_round(self, seed_from_round: Any) -> None:
        """A round begins, and the one before has ended."""

    def iterator(self, number: int, position: Any = None) -> Iterator[Any]:
        """For the round of this number: from its start, or from a position if the kind has those."""
        return iter(self.dataset)

    def of_round(self, number: int) -> Any:
        """The dataset that the round of this number iterates."""
        return self.dataset

    def skip(self, batches: Iterator[Any], count: int) -> None:
        """Leave out the first batches of a round that was begun again."""
        for _ in islice(batches, count):
            pass

    def before_pull(self, batches: Iterator[Any], is_first_of_group: bool) -> None:
        """A batch will be asked for; there may turn out to be none."""

    def at_end(self, batches: Iterator[Any]) -> None:
        """There was none. What was asked for just before isn't done yet: it may be a group that is shorter."""

    def position(self, batches: Any, ahead: int) -> Any:
        """Where the iterator is, for kinds that can begin there; else None.

        Batches that are ahead are kept beside it where `keeps_ahead` is True; else it is where it was before them.
        """
        return None

    def batch_to_plain(self, batch: Any) -> Any:
        """A batch that is kept, as a checkpoint holds it."""
        return to_plain(batch, tensor_to_plain, path=("data",))

    def batch_from_plain(self, plain: Any) -> Any:
        """The batch again."""
        return from_plain(plain, tensor_from_plain)

    def state(self, is_between: bool) -> Any:
        """What the dataset keeps from round to round, for kinds that do; perhaps between two of them."""
        return None

    def load(self, state: Any, num_rounds: int, seed_from_round: Any) -> None:
        """Make the dataset what it was after so many rounds had begun."""

    def values(self) -> list[Any]:
        """Those of variables that it reads and changes, as random generators in compiled code do, where it has some."""
        return []

    def assign(self, values: Sequence[Any]) -> None:
        """Give them these values."""

    def renew_workers(self) -> None:
        """Start what lives on from round to round and draws when it starts, and leave the random states as they are."""

    def close(self) -> None:
        """Let go of what loads the batches, such as processes."""

    def why_not_again(self) -> str | None:
        """What a resumed run can't give again as it was, and the cure; None: nothing.

        A host's own dataset knows best.
        """
        own = getattr(self.dataset, "why_not_again", None)
        return None if own is None or self.draws_alone else own()


def tensor_to_plain(value: Any) -> Any:
    """What stands for one of torch's tensors in a checkpoint."""
    return value.detach().cpu().numpy() if hasattr(value, "detach") else NotImplemented


def tensor_from_plain(content: Any) -> Any:
    """The tensor again."""
    return sys.modules["torch"].from_numpy(content)
