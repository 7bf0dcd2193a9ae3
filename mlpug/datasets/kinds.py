"""How each kind of dataset is begun, and begun again in its middle."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from mlpug.datasets import random_states
from mlpug.datasets.any_iterable import AnyIterable, tensor_from_plain, tensor_to_plain
from mlpug.datasets.generators import OwnGenerators, restore_with_states, with_states
from mlpug.datasets.tensorflow_data import TensorFlowData
from mlpug.errors import CheckpointMismatchError
from mlpug.plain import from_plain, to_plain


class Items(AnyIterable):
    """A list, a tuple, or another sequence: nothing is loaded to leave it out."""

    draws = False
    asks_again = False

    def iterator(self, number: int, position: Any = None) -> Iterator[Any]:
        return _Indexed(self.dataset, len(self.dataset))

    def skip(self, batches: Any, count: int) -> None:
        batches.next_index = count


class OneIteration(AnyIterable):
    """A generator, or another iterator: it can't be begun again, and goes on with what it gives."""

    asks_again = False
    can_begin_again = False

    def skip(self, batches: Iterator[Any], count: int) -> None:
        """It isn't at its start either."""

    def why_not_again(self) -> str | None:
        return (
            f"The training dataset is a {type(self.dataset).__name__}, which can't be read again from its start: a "
            "resumed run goes on with whatever it gives then. Pass an object with __iter__ that begins anew each time, "
            "or with state_dict and load_state_dict, for a run that goes on with the batch that was next."
        )


class TorchLoader(AnyIterable):
    """torch's DataLoader.

    Without workers only the sampler is asked for what is left out, and nothing is loaded: what loading it drew from the
    random numbers is known by the random state afterwards. With workers they load it again, so that each of them has
    drawn what it had drawn; only of workers that live for several epochs (`persistent_workers`) nobody knows that.
    """

    @property
    def asks_again(self) -> bool:  # type: ignore[override]
        return not self.dataset.num_workers and _is_iterable_style(self.dataset)

    def iterator(self, number: int, position: Any = None) -> Iterator[Any]:
        if number:
            self.renew_workers()
        return iter(self.dataset)

    def renew_workers(self) -> None:
        loader = self.dataset
        if loader.num_workers and loader.persistent_workers and loader._iterator is None:
            # Workers that are new draw a seed, and those of the run that is resumed had theirs in the first round.
            before = random_states.capture()
            own = None if loader.generator is None else loader.generator.get_state()
            iter(loader)
            random_states.restore(before)
            if own is not None:
                loader.generator.set_state(own)

    def skip(self, batches: Any, count: int) -> None:
        if self.dataset.num_workers or _is_iterable_style(self.dataset):
            super().skip(batches, count)
            return
        for _ in islice(batches._sampler_iter, count):
            batches._num_yielded += 1

    def close(self) -> None:
        batches, self.dataset._iterator = self.dataset._iterator, None
        if hasattr(batches, "_shutdown_workers"):
            batches._shutdown_workers()


class Stateful(AnyIterable):
    """Whatever has `state_dict` and `load_state_dict`, as torchdata's StatefulDataLoader does: it knows best."""

    asks_again = False

    def __init__(self, dataset: Any) -> None:
        super().__init__(dataset)
        self._before_group: Any = None
        self._before_pull: Any = None
        self._before_end: Any = None  # at its end it already says where the next round begins

    def iterator(self, number: int, position: Any = None) -> Iterator[Any]:
        if position is not None:
            self.dataset.load_state_dict(from_plain(position, tensor_from_plain))
        return iter(self.dataset)

    def skip(self, batches: Iterator[Any], count: int) -> None:
        """It is there already."""

    def before_pull(self, batches: Iterator[Any], is_first_of_group: bool) -> None:
        self._before_pull = self.dataset.state_dict()
        self._before_end = None
        if is_first_of_group:
            self._before_group = self._before_pull

    def at_end(self, batches: Iterator[Any]) -> None:
        self._before_end = self._before_pull

    def position(self, batches: Any, ahead: int) -> Any:
        if ahead:
            return self._plain(self._before_group)
        return self._plain(self.dataset.state_dict() if self._before_end is None else self._before_end)

    def state(self, is_between: bool) -> Any:
        # A host that stops by the length leaves a loader that hasn't noticed its end, and would go on with nothing.
        if is_between and _is_torch_loader(self.dataset) and not hasattr(self.dataset.dataset, "state_dict"):
            return None
        return self._plain(self.dataset.state_dict())

    def _plain(self, state: Any) -> Any:
        return to_plain(state, tensor_to_plain, path=("data",))

    def load(self, state: Any, num_rounds: int, seed_from_round: Any) -> None:
        if state is not None:
            self.dataset.load_state_dict(from_plain(state, tensor_from_plain))


class BatchesByIndex(AnyIterable):
    """A keras.utils.PyDataset: batches by their index, and hooks that may change their order.

    `on_epoch_end` is called before the first epoch too, as Keras's fit does. What the hooks do is done again when a run
    is resumed, with the random numbers that they had: those are kept for the first time, and then only for the times
    before which somebody else has drawn.
    """

    asks_again = False

    def __init__(self, dataset: Any) -> None:
        super().__init__(dataset)
        self._count = 0  # of rounds that have begun
        self._random: list[tuple[int, Any]] = []  # (round, the random states before its hooks)
        self._after: Any = None
        self._own = OwnGenerators(dataset)

    def before_round(self, seed_from_round: Any) -> None:
        if seed_from_round is None:
            before = with_states(self._own)
            if not random_states.is_same_plain(before, self._after):
                self._random.append((self._count, before))
        self._call_hooks()
        if seed_from_round is None:
            self._after = with_states(self._own)

    def iterator(self, number: int, position: Any = None) -> Iterator[Any]:
        return _Indexed(self.dataset, len(self.dataset))

    def skip(self, batches: Any, count: int) -> None:
        batches.next_index = count

    def state(self, is_between: bool) -> Any:
        return {"count": self._count, "random": [list(entry) for entry in self._random], "after": self._after}

    def load(self, state: Any, num_rounds: int, seed_from_round: Any) -> None:
        self._random = [(number, before) for number, before in state["random"]]
        self._after = state["after"]
        before = dict(self._random)
        while self._count < state["count"]:
            if seed_from_round is not None:
                seed_from_round(self._count)
            elif self._count in before:
                restore_with_states(before[self._count], self._own)
            self._call_hooks()

    def _call_hooks(self) -> None:
        self._count += 1
        self.dataset.on_epoch_end()
        if hasattr(self.dataset, "on_epoch_begin"):
            self.dataset.on_epoch_begin()


def kind_of(dataset: Any) -> AnyIterable:
    """How to treat this dataset."""
    return _class_of(dataset)(dataset)


def _class_of(dataset: Any) -> type[AnyIterable]:
    if hasattr(dataset, "state_dict") and hasattr(dataset, "load_state_dict"):
        return Stateful
    if hasattr(dataset, "__next__"):
        return OneIteration
    if _is_torch_loader(dataset):
        return TorchLoader
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None and isinstance(dataset, tensorflow.data.Dataset):
        return TensorFlowData
    if hasattr(dataset, "on_epoch_end") and hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__"):
        return BatchesByIndex
    return Items if isinstance(dataset, Sequence) and type(dataset).__iter__ in _BY_INDEX else AnyIterable


_BY_INDEX = (list.__iter__, tuple.__iter__, Sequence.__iter__)  # and not an order of its own


def _is_torch_loader(dataset: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(dataset, torch.utils.data.DataLoader)


class _Indexed:
    """Iterates by index, from any one."""

    def __init__(self, items: Any, length: int) -> None:
        self._items = items
        self._length = length
        self.next_index = 0

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if self.next_index >= self._length:
            raise StopIteration
        self.next_index += 1
        return self._items[self.next_index - 1]


def _is_iterable_style(loader: Any) -> bool:
    return isinstance(loader.dataset, sys.modules["torch"].utils.data.IterableDataset)


def check_same_kind(saved: str, dataset: Any) -> None:
    """Refuse to go on with another kind of dataset than that of the checkpoint."""
    here = _class_of(dataset).__name__
    if saved != here:
        raise CheckpointMismatchError(
            f"The checkpoint was made with another kind of training dataset (read as {saved}; here it is {here}, a "
            f"{type(dataset).__name__}): its place in the data means nothing here. Give the same kind of dataset."
        )
