"""Datasets made of one tf.data graph: a new one for each round, with other seeds, whose variables go on."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mlpug.errors import ConfigurationError


class SeededRounds:
    """The rounds of a dataset whose seeds come from one seed and the number of the round.

    The functions of the dataset may change variables, as random generators do. In a graph they are other ones, which
    begin anew with each dataset that is made of it: here they get names, and each round begins with what the one before
    has left.

    Args:
        dataset: a tf.data.Dataset.
        seed: where the seeds come from.

    Raises:
        ConfigurationError: TensorFlow can't write its graph down.
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        self._graph = graph_of(dataset)
        self._element_spec = dataset.element_spec
        self._seed = seed
        self._is_begun = False
        nodes = {node.name: node for node in self._graph.node}
        self._firsts: list[tuple[Any, Any]] = []  # (variable, the constant that it begins with)
        name = f"mlpug-{uuid.uuid4()}"
        for node in self._graph.node:
            if node.op == "AssignVariableOp":
                variable, first = (nodes[each.split(":")[0]] for each in node.input[:2])
                variable.attr["shared_name"].s = f"{name}-{len(self._firsts)}".encode()
                self._firsts.append((variable, first))

    def dataset(self, number: int) -> Any:
        """That of the round of this number."""
        self.assign(self.values())
        self._is_begun = True
        return with_seeds(self._graph, self._seed, number, self._element_spec)

    def values(self) -> list[Any]:
        """Those of the variables now."""
        tensorflow = _tensorflow()
        if not self._is_begun:
            return [tensorflow.make_ndarray(first.attr["value"].tensor) for _, first in self._firsts]
        return [
            np.array(tensorflow.raw_ops.ReadVariableOp(resource=_handle(variable), dtype=variable.attr["dtype"].type))
            for variable, _ in self._firsts
        ]

    def assign(self, values: Sequence[Any]) -> None:
        """Give them these values."""
        tensorflow = _tensorflow()
        for (variable, first), value in zip(self._firsts, values, strict=False):
            dtype = variable.attr["dtype"].type
            first.attr["value"].tensor.CopyFrom(tensorflow.make_tensor_proto(value, dtype))
            if self._is_begun:
                tensorflow.raw_ops.AssignVariableOp(
                    resource=_handle(variable), value=tensorflow.constant(value, dtype), validate_shape=False
                )

    def close(self) -> None:
        """Free the variables."""
        if self._is_begun:
            self.assign(self.values())
            self._is_begun = False
            for variable, _ in self._firsts:
                _tensorflow().raw_ops.DestroyResourceOp(resource=_handle(variable))


def _handle(variable: Any) -> Any:
    return _tensorflow().raw_ops.VarHandleOp(
        container="",
        shared_name=variable.attr["shared_name"].s.decode(),
        dtype=variable.attr["dtype"].type,
        shape=variable.attr["shape"].shape,
    )


def graph_of(dataset: Any) -> Any:
    """What the dataset is made of, as a message that can be changed; data that it holds in memory is in it.

    Raises:
        ConfigurationError: TensorFlow can't write it down.
    """
    tensorflow = _tensorflow()
    try:
        written = tensorflow.raw_ops.DatasetToGraphV2(
            input_dataset=dataset._variant_tensor,
            external_state_policy=1,  # what Python code or random numbers it calls stays as it is
            strip_device_assignment=True,
        ).numpy()
        return tensorflow.compat.v1.GraphDef.FromString(written)
    except Exception as error:
        if not isinstance(error, (tensorflow.errors.OpError, ValueError)):  # ValueError, DecodeError: more than 2 GB
            raise
        raise ConfigurationError(
            f"TrainingManager(seed=...) can't reach into this tf.data.Dataset: TensorFlow can't write its graph down "
            f"({error}). Leave seed out, and give its shuffle(..., seed=...) a seed of its own."
        ) from error


def with_seeds(graph: Any, seed: int | None, number: int, element_spec: Any) -> Any:
    """A dataset of this graph, which shares no seeds with any other.

    Args:
        graph: what `graph_of` gave; its seeds are changed.
        seed: where the seeds of all that draws come from; None: as they are.
        number: of the round; what shuffles alike in each doesn't take it into account.
        element_spec: of the dataset.
    """
    tensorflow = _tensorflow()
    if seed is not None:
        _seed_operations(graph, seed, number)
    for place, (seeds, generator, is_always_alike) in enumerate(_drawing(graph)):
        if seed is not None:
            entropy = np.random.SeedSequence([seed, place, 0 if is_always_alike else number + 1])
            for constant, value in zip(seeds, entropy.generate_state(len(seeds)), strict=True):
                constant.attr["value"].tensor.CopyFrom(tensorflow.make_tensor_proto(int(value), tensorflow.int64))
        for constant in generator:  # the one that it has now, with the seeds of now
            constant.op = "DummySeedGenerator"
            constant.ClearField("attr")
    variant = tensorflow.raw_ops.DatasetFromGraph(graph_def=graph.SerializeToString())
    return tensorflow.data.experimental.from_variant(variant, element_spec)


# Where the inputs are that seed what draws: two numbers, and perhaps what gives each iterator others.
SEEDS = {"ShuffleDatasetV3": 2, "RandomDataset": 0, "RandomDatasetV2": 0}


def _seed_operations(graph: Any, seed: int, number: int) -> None:
    """Give the operations of functions that draw by themselves, such as tf.random.normal, seeds of the round."""
    nodes = (node for function in graph.library.function for node in function.node_def)
    drawing = [node for node in nodes if {"seed", "seed2"} <= set(node.attr)]
    for place, node in enumerate(drawing):
        words = np.random.SeedSequence([seed, number, place]).generate_state(2)
        for name, value in zip(("seed", "seed2"), words, strict=True):
            node.attr[name].i = int(value >> 1)


def _drawing(graph: Any) -> Iterator[tuple[list[Any], list[Any], bool]]:
    """Of each node that draws: the constants of its seeds, that of its generator, and whether each epoch is alike."""
    for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
        by_name = {node.name: node for node in nodes}
        for node in list(nodes):
            if node.op in SEEDS:
                first = SEEDS[node.op]
                inputs = [by_name.get(name.split(":")[0]) for name in node.input[first : first + 3]]
                # What is no constant is an argument of the function that the node is in.
                seeds, generator = (
                    [each for each in part if each is not None and each.op == "Const"]
                    for part in (inputs[:2], inputs[2:])
                )
                is_always_alike = node.op == "ShuffleDatasetV3" and not node.attr["reshuffle_each_iteration"].b
                yield seeds, generator, is_always_alike


def _tensorflow() -> Any:
    return sys.modules["tensorflow"]
