"""What the step on TensorFlow is made of: the sums of gradients, and the traces of functions."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import keras
import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.framework import op_callbacks

from mlpug.errors import MlpugWarning
from mlpug_keras.accumulation import counted_part, largest, mean_of, overwrites, share, sum_dtype

_SEEDS = {"seed", "seed2"}  # attributes of operations that draw by themselves


def dense(gradient: Any, variable: Any) -> Any:
    """The variable's gradient with the rows of one index added up, as on JAX and PyTorch; None where there is none.

    An optimizer would else square the rows apart, but only where nothing before it, such as clipping, adds them up.
    """
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    return tf.math.unsorted_segment_sum(gradient.values, gradient.indices, variable.shape[0])


class Sums:
    """The sums of the gradients of a batch's chunks, by their weights."""

    def __init__(self, variables: Iterable[Any]) -> None:
        self._variables = list(variables)
        with tf.init_scope():
            self._totals = [
                tf.Variable(tf.zeros(variable.shape, sum_dtype(variable)), trainable=False)
                for variable in self._variables
            ]
            self.weight = tf.Variable(0.0, trainable=False)
            self._reference = tf.Variable(0.0, trainable=False)
        self._has_gradient = [False] * len(self._variables)  # known when a chunk was traced

    def start(self) -> None:
        """A batch begins."""
        for total in (*self._totals, self.weight, self._reference):
            total.assign(tf.zeros_like(total))

    def add(self, gradients: list[Any], num_samples: Any) -> None:
        """Take the gradients of the next chunk; None where there is none."""
        weight, reference = share(num_samples, self._reference.value())
        for number, (total, gradient, variable) in enumerate(
            zip(self._totals, gradients, self._variables, strict=True)
        ):
            if gradient is None:
                continue
            self._has_gradient[number] = True
            if overwrites(variable):
                total.assign(largest(total.value(), gradient, weight, self.weight.value()))
            else:
                total.assign_add(counted_part(gradient, weight, total.dtype.name))
        self.weight.assign_add(weight)
        self._reference.assign(reference)

    def means(self) -> list[Any]:
        """The gradients of the batch, which take the place of the sums; None where no chunk had one."""
        for total, variable in zip(self._totals, self._variables, strict=True):
            if not overwrites(variable):
                total.assign(mean_of(total.value(), self.weight.value(), total.dtype.name))
        return [
            tf.cast(total.value(), keras.backend.standardize_dtype(variable.dtype)) if has_gradient else None
            for total, variable, has_gradient in zip(self._totals, self._variables, self._has_gradient, strict=True)
        ]


class Traced:
    """Calls the trace of a `tf.function` that fits the arrays.

    Called itself, it looks for the trace anew each time: that takes 140 µs, a third of a small step.
    """

    def __init__(self, function: Any, has_signature: bool) -> None:
        self._function = function
        self._has_signature = has_signature
        self._traces: dict[Any, Callable[..., Any]] = {}

    def __call__(self, arrays: list[Any]) -> Any:
        tensors = [array if isinstance(array, tf.Tensor) else _as_tensor(array) for array in arrays]
        key = None if self._has_signature else tuple([_spec(tensor) for tensor in tensors])
        trace = self._traces.get(key)
        if trace is None:
            given = () if self._has_signature else ([tf.type_spec_from_value(tensor) for tensor in tensors],)
            trace = self._traces[key] = self._function.get_concrete_function(*given)
        return trace(tensors)


def _as_tensor(array: Any) -> Any:
    return array if hasattr(array, "_type_spec") else tf.convert_to_tensor(array)


def _spec(tensor: Any) -> Any:
    return (tensor.shape, tensor.dtype) if isinstance(tensor, tf.Tensor) else tensor._type_spec


class OwnDraws:
    """Warns once of operations in a step that draw random numbers by themselves, such as ``tf.random.normal``.

    Where they are among their numbers is known to nobody but them: a resumed run draws from their beginning again.
    """

    def __init__(self) -> None:
        self._has_told = False
        self._has_heard = False

    @contextmanager
    def looked_for(self) -> Iterator[None]:
        """Within, a step is traced, or called, where it is eager: then only the first time is looked at."""
        if self._has_told or (tf.executing_eagerly() and self._has_heard):
            yield
            return
        names: set[str] = set()
        if tf.executing_eagerly():
            self._has_heard = True
            with _heard_operations(names):
                yield
        else:
            yield
            graph = tf.compat.v1.get_default_graph().as_graph_def()
            names |= _drawing(chain(graph.node, *(function.node_def for function in graph.library.function)))
        if names:
            self._tell(names)

    def _tell(self, names: set[str]) -> None:
        self._has_told = True
        operations = ", ".join(sorted(names))
        warnings.warn(
            f"The training step draws random numbers by TensorFlow's own operations ({operations}), whose place in "
            "them nobody else knows: a resumed run draws other numbers than this one would have. Use "
            "keras.random with a keras.random.SeedGenerator, or a tf.random.Generator, that the layer has in an "
            "attribute: their states are in checkpoints.",
            MlpugWarning,
            stacklevel=2,
        )


@contextmanager
def _heard_operations(names: set[str]) -> Iterator[None]:
    """Within, the names of operations that draw are added to these, as they are executed."""

    def heard(kind: Any, inputs: Any, attributes: Any, *_: Any, **others: Any) -> None:
        kind = tf.compat.as_str(kind)
        if set((attributes or ())[::2]) >= _SEEDS:
            names.add(kind)
        elif kind.startswith("__") and context.context().has_function(kind):  # compiled, and called in the step
            names.update(_drawing(_nodes_of(kind)))

    op_callbacks.add_op_callback(heard)
    try:
        yield
    finally:
        op_callbacks.remove_op_callback(heard)


def _nodes_of(function: str) -> Iterator[Any]:
    """Also of the functions that it calls."""
    to_see, seen = [function], {function}
    while to_see:
        for node in context.context().get_function_def(to_see.pop()).node_def:
            yield node
            called = {attribute.func.name for attribute in node.attr.values() if attribute.HasField("func")} - seen
            to_see += called
            seen |= called


def _drawing(nodes: Iterable[Any]) -> set[str]:
    return {node.op for node in nodes if set(node.attr) >= _SEEDS}
