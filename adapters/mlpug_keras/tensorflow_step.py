"""The step on TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import keras
import tensorflow as tf

from mlpug.trees import leaves
from mlpug_keras.batches import Compiled, Join
from mlpug_keras.model import TrainingModel


class Step:
    """Loss, gradients and update, by `tf.function` unless it is to run eagerly."""

    compiler = staticmethod(tf.function)  # takes the compile_kwargs

    def __init__(
        self,
        model: TrainingModel,
        optimizer: keras.optimizers.Optimizer,
        eager: bool,
        compile_kwargs: Mapping[str, Any],
        signature: Any,
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._eager = eager
        self._compile_kwargs = compile_kwargs
        self._signature = [] if signature is None else list(leaves(signature))
        self._train = {looks: Compiled(partial(self._make_train, looks)) for looks in (False, True)}
        self._evaluate = Compiled(self._make_evaluate)

    @staticmethod
    def is_native(leaf: Any) -> bool:
        """Whether TensorFlow computes with it as it is."""
        return isinstance(leaf, tf.Tensor) or hasattr(leaf, "_type_spec")

    @staticmethod
    def read(arrays: list[Any]) -> list[Any]:
        """The arrays on the host: scalars of one kind, such as the losses of many batches, by one transfer."""
        read: list[Any] = [None] * len(arrays)
        scalars: dict[Any, list[int]] = {}
        for index, array in enumerate(arrays):
            if array.shape.rank == 0:
                scalars.setdefault(array.dtype, []).append(index)
            else:
                read[index] = array.numpy()
        for indices in scalars.values():
            if len(indices) == 1:  # to stack one takes 14 µs
                read[indices[0]] = arrays[indices[0]].numpy()
                continue
            numbers = tf.stack([arrays[index] for index in indices]).numpy()
            for index, number in zip(indices, numbers, strict=True):
                read[index] = number
        return read

    @staticmethod
    def as_train_function(train: Callable[[], dict[str, Any]]) -> Callable[..., Any]:
        """What Keras calls on TensorFlow."""
        return lambda iterator: train()

    def build(self, batch: Any, settings: Any) -> None:
        """Create the variables of layers that don't have theirs yet, without computing anything."""
        function, arrays = Compiled(lambda join, _: lambda arrays: self._results(join(arrays), False)).of(
            batch, settings
        )
        with keras.StatelessScope():
            tf.function(function, autograph=False).get_concrete_function([tf.convert_to_tensor(a) for a in arrays])

    def train(self, batch: Any, settings: Any, looks: bool) -> tuple[tuple[Any, Any, Any], bool]:
        """Train on the batch; return (loss, num_samples, auxiliary_results), and whether the weights changed.

        Where `looks` is True, they and all else stay where the loss or a gradient isn't finite.
        """
        function, arrays = self._train[looks].of(batch, settings)
        # XLA writes what a step changed when the step is done; without it, an error comes when some of it is written.
        kept = [] if self._is_atomic else _values_of(self._model.non_trainable_variables)
        try:
            results, is_finite = function(arrays)
        except BaseException:
            _put_back(kept)
            raise
        return results, not looks or bool(is_finite)

    def evaluate(self, batch: Any, settings: Any) -> tuple[Any, Any, Any]:
        """The same of the batch in inference mode."""
        function, arrays = self._evaluate.of(batch, settings)
        results: tuple[Any, Any, Any] = function(arrays)
        return results

    @property
    def _is_atomic(self) -> bool:
        return not self._eager and bool(self._compile_kwargs.get("jit_compile", self._model.jit_compile))

    def _make_train(self, looks: bool, join: Join, arrays: list[Any]) -> Callable[..., Any]:
        def train(arrays: list[Any]) -> tuple[Any, Any]:
            variables = self._model.trainable_variables
            # Read before the forward pass changes them.
            kept = _values_of(self._model.kept_variables) if looks else []
            with tf.GradientTape() as tape:
                loss, num_samples, auxiliary_results = self._results(join(arrays), inference_mode=False)
                scaled_loss = self._optimizer.scale_loss(loss)
            gradients = tape.gradient(scaled_loss, variables)
            is_finite = self._are_finite(loss, gradients) if looks else None
            if looks:
                tf.cond(is_finite, lambda: self._update(gradients), lambda: _put_back(kept))
            else:
                self._update(gradients)
            return (loss, num_samples, auxiliary_results), is_finite

        return self._compiled(train, arrays)

    def _update(self, gradients: list[Any]) -> None:
        # Not before all of them are there: an error on the way must not leave weights that are half updated.
        latest = self._model.latest
        with tf.control_dependencies([gradient for gradient in gradients if gradient is not None]):
            latest.is_updating = True
            self._optimizer.apply(gradients, self._model.trainable_variables)
            latest.is_updating = False

    def _are_finite(self, loss: Any, gradients: list[Any]) -> Any:
        # Infinite gradients are what a loss scaler works with: it leaves out such a step itself.
        is_scaled = isinstance(self._optimizer, keras.optimizers.LossScaleOptimizer)
        looked_at = [loss] if is_scaled else [loss, *(gradient for gradient in gradients if gradient is not None)]
        return tf.reduce_all(tf.stack([_is_finite(value) for value in looked_at]))

    def _make_evaluate(self, join: Join, arrays: list[Any]) -> Callable[..., Any]:
        return self._compiled(lambda arrays: self._results(join(arrays), inference_mode=True), arrays)

    def _results(self, batch_and_settings: tuple[Any, Any], inference_mode: bool) -> tuple[Any, Any, Any]:
        return self._model.results(*batch_and_settings, inference_mode=inference_mode)

    def _compiled(self, function: Callable[..., Any], example: list[Any]) -> Callable[..., Any]:
        if self._eager:
            return lambda arrays: function([tf.convert_to_tensor(array) for array in arrays])
        # With a signature one trace serves every batch; without, one for each shape, until TensorFlow relaxes them.
        specs = [tf.TensorSpec(spec.shape, spec.dtype) for spec in self._signature]
        rest = [tf.TensorSpec(array.shape, array.dtype) for array in example[len(specs) :]]
        shapes = {"input_signature": [specs + rest]} if specs else {"reduce_retracing": True}
        # By XLA where Keras's own fit would; it halves the time of a small step.
        options = {"jit_compile": self._model.jit_compile, **shapes, **self._compile_kwargs}
        return _Traced(tf.function(function, autograph=False, **options), has_signature=bool(specs))


def _is_finite(value: Any) -> Any:
    array = value.values if isinstance(value, tf.IndexedSlices) else tf.convert_to_tensor(value)
    parts = [tf.math.real(array), tf.math.imag(array)] if array.dtype.is_complex else [array]
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(part)) for part in parts])


def _values_of(variables: Iterable[Any]) -> list[tuple[Any, Any]]:
    return [(variable, tf.identity(variable.value)) for variable in variables]


def _put_back(kept: list[tuple[Any, Any]]) -> None:
    for variable, value in kept:
        variable.assign(value)


class _Traced:
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
