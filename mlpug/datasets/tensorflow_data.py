"""tf.data: iterators that say where they are, and shuffles that draw from seeds of their own.

TensorFlow isn't imported here: where there is a dataset of its, it is loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from mlpug.datasets.any_iterable import AnyIterable
from mlpug.errors import ConfigurationError
from mlpug.plain import from_plain, to_plain
from mlpug.validation import known_length

_END = "end"  # a position


class TensorFlowData(AnyIterable):
    """tf.data: its iterators can say where they are, with what is in their buffers.

    The order of the rounds after that comes from the seeds of its shuffles, and from how many iterators were made of
    it. Those seeds come from ``shuffle(seed=...)``, from ``tf.random.set_seed`` before the dataset is made, or from
    ``TrainingManager(seed=...)``; else TensorFlow draws them anew in each process, and only the round under way is as
    it was.
    """

    draws = False
    keeps_ahead = True

    def seed(self, seed: int) -> None:
        self.dataset = seeded(self.dataset, seed)

    def iterator(self, position: Any = None) -> Iterator[Any]:
        batches: Iterator[Any] = iter(self.dataset)
        if isinstance(position, str):
            return _Placed(iter(()))
        if position is not None:
            tensorflow = _tensorflow()
            saved = tensorflow.io.parse_tensor(position.tobytes(), tensorflow.variant)
            tensorflow.raw_ops.DeserializeIterator(resource_handle=_resource(batches), serialized=saved)
            return _Placed(batches)
        return batches

    def skip(self, batches: Any, count: int) -> None:
        if not isinstance(batches, _Placed):
            super().skip(batches, count)

    def position(self, batches: Any, pulled: int, ahead: int) -> Any:
        # An iterator that is begun behind its last batch draws seeds for a shuffle once more, and the next round has
        # others than it should: it isn't begun there, and where nobody knows which batch is the last, nowhere.
        length = known_length(self.dataset)
        if length is None and self.why_not_again() is None:
            return None
        if pulled == length:
            return _END
        tensorflow = _tensorflow()
        source = batches.batches if isinstance(batches, _Placed) else batches
        try:
            saved = tensorflow.raw_ops.SerializeIterator(
                resource_handle=_resource(source),
                external_state_policy=2,  # an error where it depends on what TensorFlow can't see, as Python code does
            )
        except tensorflow.errors.OpError:
            return None
        return np.frombuffer(tensorflow.io.serialize_tensor(saved).numpy(), np.uint8)

    def load(self, state: Any, num_rounds: int, seed_from_round: Any) -> None:
        for _ in range(num_rounds):
            iter(self.dataset)

    def why_not_again(self) -> str | None:
        if not any(_has_no_seed(part) for part in _parts(self.dataset)):
            return None
        return (
            "The training dataset shuffles without a seed, so that a resumed run has its later epochs in another order "
            "than this one would have had. Give shuffle(..., seed=...) or TrainingManager(..., seed=...), or call "
            "keras.utils.set_random_seed before the dataset is made."
        )


def seeded(dataset: Any, seed: int) -> Any:
    """The same dataset, with seeds for all of its shuffles that come from this one.

    Its graph is taken apart and put together again, because a dataset that is made already keeps its seeds; data that
    it holds in memory is copied.

    Raises:
        ConfigurationError: TensorFlow can't write the graph down.
    """
    tensorflow = _tensorflow()
    try:
        written = tensorflow.raw_ops.DatasetToGraphV2(
            input_dataset=dataset._variant_tensor,
            external_state_policy=1,  # what Python code or random numbers it calls stays as it is
            strip_device_assignment=True,
        ).numpy()
        graph = tensorflow.compat.v1.GraphDef.FromString(written)
    except (tensorflow.errors.OpError, ValueError) as error:  # ValueError: more than 2 GB
        raise ConfigurationError(
            "TrainingManager(seed=...) can't reach into this tf.data.Dataset: TensorFlow can't write its graph down "
            f"({error}). Leave seed out, and give its shuffle(..., seed=...) a seed of its own."
        ) from error
    numbers = iter(np.random.SeedSequence(seed).generate_state(1024, np.uint64).tolist())
    for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
        _reseed(nodes, lambda: next(numbers) >> 2)
    variant = tensorflow.raw_ops.DatasetFromGraph(graph_def=graph.SerializeToString())
    return tensorflow.data.experimental.from_variant(variant, dataset.element_spec)


def batch_to_plain(batch: Any) -> Any:
    """A batch of TensorFlow's tensors as a checkpoint holds it; they come back as numpy's arrays."""
    return to_plain(batch, lambda value: value.numpy() if hasattr(value, "numpy") else NotImplemented, path=("data",))


def batch_from_plain(plain: Any) -> Any:
    """The batch again."""
    return from_plain(plain, lambda content: content)


class _Placed:
    """An iterator that was begun at a position."""

    def __init__(self, batches: Any) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return next(self.batches)


def _reseed(nodes: Iterable[Any], draw: Any) -> None:
    by_name = {node.name: node for node in nodes}
    for node in list(by_name.values()):
        if node.op == "ShuffleDatasetV3":
            _, _, *seeds, generator = (by_name.get(name.split(":")[0]) for name in node.input)
            for constant in seeds:
                if constant is not None and constant.op == "Const":  # else it is an argument of the function
                    value = _tensorflow().make_tensor_proto(draw(), _tensorflow().int64)
                    constant.attr["value"].tensor.CopyFrom(value)
            if generator is not None and generator.op == "Const":  # the one that it has now, with the seeds of now
                generator.op = "DummySeedGenerator"
                generator.ClearField("attr")


def _parts(dataset: Any) -> Iterator[Any]:
    yield dataset
    for source in dataset._inputs():
        yield from _parts(source)


def _has_no_seed(dataset: Any) -> bool:
    """Whether it is a shuffle with the two zeros that stand for none."""
    seeds = [getattr(dataset, name, None) for name in ("_seed", "_seed2")]
    return all(seed is not None and hasattr(seed, "numpy") and seed.numpy() == 0 for seed in seeds)


def _resource(batches: Any) -> Any:
    return batches._iterator_resource


def _tensorflow() -> Any:
    return sys.modules["tensorflow"]
