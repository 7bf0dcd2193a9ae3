"""tf.data: iterators that say where they are, and shuffles that draw from seeds of their own.

TensorFlow isn't imported here: where there is a dataset of its, it is loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from mlpug.datasets.any_iterable import AnyIterable
from mlpug.datasets.tensorflow_rounds import SEEDS, SeededRounds, graph_of, with_seeds
from mlpug.errors import ConfigurationError
from mlpug.plain import from_plain, to_plain


class TensorFlowData(AnyIterable):
    """tf.data: its iterators can say where they are, with what is in their buffers.

    With ``TrainingManager(seed=...)`` each round is a dataset of its own, whose shuffles have seeds that come from the
    seed and the number of the round. Without it, their seeds come from ``shuffle(seed=...)``, or from
    ``tf.random.set_seed`` before the dataset is made, and each round is one more iterator of the one dataset. To go on
    in one, an iterator of a copy is put in its place: to put one anywhere draws further seeds from its dataset.
    """

    draws = False
    keeps_ahead = True
    asks_again = False
    reads_ahead = True

    def __init__(self, dataset: Any) -> None:
        super().__init__(dataset)
        self._rounds: SeededRounds | None = None  # with a seed

    def seed(self, seed: int) -> None:
        self._rounds = SeededRounds(self.dataset, seed)

    def iterator(self, number: int, position: Any = None) -> Iterator[Any]:
        batches: Any = iter(self.of_round(number))
        if position is None:
            return batches  # type: ignore[no-any-return]
        if self._rounds is None:
            try:
                batches = iter(with_seeds(graph_of(self.dataset), None, 0, self.dataset.element_spec))
            except ConfigurationError:  # it is read again from its start
                return batches  # type: ignore[no-any-return]
        tensorflow = _tensorflow()
        saved = tensorflow.io.parse_tensor(position.tobytes(), tensorflow.variant)
        tensorflow.raw_ops.DeserializeIterator(resource_handle=batches._iterator_resource, serialized=saved)
        return _Placed(batches)

    def skip(self, batches: Any, count: int) -> None:
        if not isinstance(batches, _Placed):
            super().skip(batches, count)

    def position(self, batches: Any, ahead: int) -> Any:
        if not self._shuffles_once or self.values():
            return None
        tensorflow = _tensorflow()
        source = batches.batches if isinstance(batches, _Placed) else batches
        try:
            saved = tensorflow.raw_ops.SerializeIterator(
                resource_handle=source._iterator_resource,
                external_state_policy=2,  # an error where it depends on what TensorFlow can't see, as Python code does
            )
        except tensorflow.errors.OpError:
            return None
        return np.frombuffer(tensorflow.io.serialize_tensor(saved).numpy(), np.uint8)

    def batch_to_plain(self, batch: Any) -> Any:
        return to_plain(batch, lambda value: value.numpy() if hasattr(value, "numpy") else NotImplemented, ("data",))

    def batch_from_plain(self, plain: Any) -> Any:
        return from_plain(plain, lambda content: content)  # numpy's arrays, which are as good

    def load(self, state: Any, num_rounds: int, seed_from_round: Any) -> None:
        for _ in range(num_rounds if self._rounds is None else 0):
            iter(self.dataset)

    def why_not_again(self) -> str | None:
        if self._rounds is not None:
            return None
        has_no_seed = any(_has_no_seed(part) for part in _parts(self.dataset))
        is_endless = self.dataset.cardinality() == _tensorflow().data.INFINITE_CARDINALITY  # there is one round
        if not has_no_seed and (self._shuffles_once or is_endless):
            return None
        what = "its data" if has_no_seed and not self._shuffles_once else "its later epochs"
        why = "shuffles without a seed" if has_no_seed else "shuffles more than once in an epoch"
        cures = "shuffle(..., seed=...) or " if self._shuffles_once else ""
        return (
            f"The training dataset {why}, so that a resumed run has {what} in another order than this one "
            f"would have had. Give {cures}TrainingManager(..., seed=...)."
        )

    @cached_property
    def _shuffles_once(self) -> bool:
        """Whether an iterator draws seeds just when it is made, for one shuffle at most."""
        parts = list(_parts(self.dataset))
        return not (
            sum(_is_shuffle(part) for part in parts) > 1
            or any(_repeats_a_shuffle(part) for part in parts)
            or any(_drawing_within(function) for part in parts for function in part._functions())
        )

    def of_round(self, number: int) -> Any:
        return self.dataset if self._rounds is None else self._rounds.dataset(number)

    def values(self) -> list[Any]:
        if self._rounds is not None:
            return self._rounds.values()
        return [np.array(variable) for variable in variables_drawn_from(self.dataset)]

    def assign(self, values: Sequence[Any]) -> None:
        if self._rounds is not None:
            self._rounds.assign(values)
        else:
            for variable, value in zip(variables_drawn_from(self.dataset), values, strict=False):
                variable.assign(value)

    def close(self) -> None:
        if self._rounds is not None:
            self._rounds.close()


def seeds_of(dataset: Any) -> list[list[int | None]]:
    """The two seeds of each shuffle of a tf.data.Dataset, in which the global seed is; of anything else none."""
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None or not isinstance(dataset, tensorflow.data.Dataset):
        return []
    values = tensorflow.get_static_value
    return [
        [None if seed is None else int(seed) for seed in (values(part._seed), values(part._seed2))]
        for part in _parts(dataset)
        if _is_shuffle(part)
    ]


def variables_drawn_from(dataset: Any) -> list[Any]:
    """The variables that the functions of a tf.data.Dataset read and change, as those of random generators.

    Of anything else there are none.
    """
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is None or not isinstance(dataset, tensorflow.data.Dataset):
        return []
    found: dict[int, Any] = {}
    for part in _parts(dataset):
        for function in part._functions():
            found |= {id(variable): variable for variable in function.function.variables}
    return list(found.values())


class _Placed:
    """An iterator that was begun at a position."""

    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self.batches)


def _parts(dataset: Any) -> Iterator[Any]:
    yield dataset
    for source in dataset._inputs():
        yield from _parts(source)


def _is_shuffle(dataset: Any) -> bool:
    return hasattr(dataset, "_seed") and hasattr(dataset, "_seed2")


def _has_no_seed(dataset: Any) -> bool:
    """Whether it is a shuffle with the two zeros that stand for none, or has one within."""
    if _is_shuffle(dataset):
        return _are_zero((dataset._seed, dataset._seed2))
    return any(
        _are_zero(operation.inputs[SEEDS[operation.type] :][:2])
        for function in dataset._functions()
        for operation in _drawing_within(function)
    )


def _are_zero(seeds: Iterable[Any]) -> bool:
    return all(_tensorflow().get_static_value(seed) == 0 for seed in seeds)


def _repeats_a_shuffle(dataset: Any) -> bool:
    return type(dataset).__name__ == "_RepeatDataset" and any(_is_shuffle(part) for part in _parts(dataset))


def _drawing_within(function: Any) -> list[Any]:
    return [operation for operation in function.function.graph.get_operations() if operation.type in SEEDS]


def _tensorflow() -> Any:
    return sys.modules["tensorflow"]
