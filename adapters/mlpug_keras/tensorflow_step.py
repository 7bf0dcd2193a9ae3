"""The step on TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from mlpug.adapter import Clipping, StepOutput
from mlpug.step_output import counted, joined_outputs
from mlpug.trees import leaves
from mlpug_keras.accumulation import count_in, weighted_mean
from mlpug_keras.batches import Compiled, Join
from mlpug_keras.model import TrainingModel
from mlpug_keras.optimizers import Optimizers
from mlpug_keras.tensorflow_parts import OwnDraws, Sums, Traced, dense


class Step:
    """Loss, gradients and update, by `tf.function` unless it is to run eagerly.

    A whole batch is computed by one function. Where batches have chunks, each is computed by a function that adds to
    the sums of the gradients, and another one updates: so the memory is that of one chunk, and a batch of many chunks
    is traced no longer than one of a few.
    """

    compiler = staticmethod(tf.function)  # takes the compile_kwargs

    def __init__(
        self,
        model: TrainingModel,
        optimizers: Optimizers,
        eager: bool,
        compile_kwargs: Mapping[str, Any],
        signature: Any,
    ) -> None:
        self._model = model
        self._optimizers = optimizers
        self._eager = eager
        self._compile_kwargs = compile_kwargs
        self._signature = [] if signature is None else list(leaves(signature))
        self._train: dict[tuple[bool, Clipping | None], Compiled] = {}
        self._add = Compiled(self._make_add)
        self._finish: dict[tuple[bool, Clipping | None], Callable[..., Any]] = {}
        self._evaluate = Compiled(self._make_evaluate)
        self._sums: Sums | None = None
        self._own_draws = OwnDraws()
        self.tracing: Callable[[], AbstractContextManager[None]] = nullcontext  # what each function is traced in

    @staticmethod
    def is_native(leaf: Any) -> bool:
        """Whether TensorFlow computes with it as it is."""
        return isinstance(leaf, tf.Tensor) or hasattr(leaf, "_type_spec")

    @staticmethod
    def has_gpu() -> bool:
        """Whether TensorFlow sees one, on which it then computes."""
        return bool(tf.config.list_logical_devices("GPU"))

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
    def concatenate(arrays: list[Any]) -> Any:
        """Along the first axis; numpy's arrays stay numpy's."""
        is_numpy = all(isinstance(array, np.ndarray) for array in arrays)
        return np.concatenate(arrays) if is_numpy else tf.concat(arrays, axis=0)

    def check_trained(self) -> None:
        """Weights may be frozen at any time: that has an effect whenever the step is traced, as in `fit`."""

    @staticmethod
    def as_train_function(train: Callable[[], dict[str, Any]]) -> Callable[..., Any]:
        """What Keras calls on TensorFlow."""
        return lambda iterator: train()

    def build(self, batch: Any, settings: Any) -> None:
        """Create the variables of layers that don't have theirs yet, without computing anything."""
        function, arrays = Compiled(lambda join, _: lambda arrays: self._results(join(arrays), False)).of(
            batch, settings
        )
        # Symbolic: what a regularizer gets of a weight, which has no value yet, is then the variable.
        with keras.StatelessScope(), keras.SymbolicScope():
            tf.function(function, autograph=False).get_concrete_function([tf.convert_to_tensor(a) for a in arrays])

    def train(
        self, chunks: list[Any], settings: Any, looks: bool, clipping: Clipping | None
    ) -> tuple[StepOutput, bool, bool]:
        """Train on the chunks of a batch: what the model gave, whether the weights changed, and whether all is finite.

        Where `looks` is True, they and all else stay where the loss or a gradient isn't finite.
        """
        # XLA writes what a step changed when the step is done; without it, an error comes when some of it is written.
        is_atomic = self._is_atomic and not self._model.has_chunks
        kept = [] if is_atomic else _values_of(self._model.non_trainable_variables)
        try:
            if not self._model.has_chunks:
                function, arrays = self._train_for(looks, clipping).of(chunks[0], settings)
                (loss, num_samples, auxiliary_results), is_finite, has_moved, norm = function(arrays)
                num_samples = counted(num_samples, chunks[0])
            else:
                output = self._add_up(chunks, settings)
                loss, num_samples, auxiliary_results = output.loss, output.num_samples, output.auxiliary_results
                is_finite, has_moved, norm = self._finished(looks, clipping, kept, output)
        except BaseException:
            _put_back(kept)
            raise
        is_all_finite = is_finite is None or bool(is_finite)
        did_update = is_all_finite and (has_moved is None or bool(has_moved))
        return StepOutput(loss, num_samples, auxiliary_results, norm), did_update, is_all_finite

    def evaluate(self, batch: Any, settings: Any) -> tuple[Any, Any, Any]:
        """(loss, num_samples, auxiliary_results) of the batch in inference mode."""
        function, arrays = self._evaluate.of(batch, settings)
        results: tuple[Any, Any, Any] = function(arrays)
        return results

    def _add_up(self, chunks: list[Any], settings: Any) -> StepOutput:
        """What the model gave for the batch; its gradients are in the sums."""
        if self._sums is None:
            self._sums = Sums(self._optimizers.trained)
        self._sums.start()
        outputs = []
        for chunk in chunks:
            function, arrays = self._add.of(chunk, settings)
            loss, num_samples, auxiliary_results = function([*arrays, np.float32(count_in(chunk))])
            outputs.append(StepOutput(loss, counted(num_samples, chunk), auxiliary_results))
        return joined_outputs(outputs, self.concatenate, weighted_mean)

    def _finished(
        self, looks: bool, clipping: Clipping | None, kept: list[tuple[Any, Any]], output: StepOutput
    ) -> tuple[Any, Any, Any]:
        """Update by the sums: whether all is finite, whether the weights moved (None: yes), and the gradient's norm."""
        assert self._sums is not None
        if not isinstance(output.num_samples, int) and not self._sums.weight > 0:
            return None, False, None  # nothing in the batch counts
        if (looks, clipping) not in self._finish:
            self._finish[looks, clipping] = self._make_finish(looks, clipping)
        losses = list(output.loss.values()) if isinstance(output.loss, Mapping) else [output.loss]
        if looks and not all(_is_finite(loss) for loss in losses):
            is_finite, has_moved, norm = False, False, None
        else:
            is_finite, has_moved, norm = self._finish[looks, clipping]([])
        if looks and not is_finite:
            without_seeds = {id(variable) for variable in self._model.kept_variables}
            _put_back([pair for pair in kept if id(pair[0]) in without_seeds])
        return is_finite, has_moved, norm

    @property
    def _is_atomic(self) -> bool:
        return not self._eager and bool(self._compile_kwargs.get("jit_compile", self._model.jit_compile))

    def _train_for(self, looks: bool, clipping: Clipping | None) -> Compiled:
        if (looks, clipping) not in self._train:
            self._train[looks, clipping] = Compiled(partial(self._make_train, looks, clipping))
        return self._train[looks, clipping]

    def _make_train(self, looks: bool, clipping: Clipping | None, join: Join, arrays: list[Any]) -> Callable[..., Any]:
        def train(arrays: list[Any]) -> tuple[Any, Any, Any, Any]:
            # Read before the forward pass changes them.
            kept = _values_of(self._model.kept_variables) if looks else []
            results, gradients = self._gradients(join(arrays))
            loss = results[0]
            losses = list(loss.values()) if isinstance(loss, Mapping) else [loss]
            return results, *self._update(gradients, clipping, self._looked_at(losses, gradients, looks), kept)

        return self._compiled(train, arrays)

    def _make_add(self, join: Join, arrays: list[Any]) -> Callable[..., Any]:
        def add(arrays: list[Any]) -> tuple[Any, Any, Any]:
            assert self._sums is not None
            *of_chunk, count = arrays
            results, gradients = self._gradients(join(of_chunk))
            self._sums.add(gradients, count if results[1] is None else results[1])
            return results

        return self._compiled(add, [*arrays, np.float32(1)], is_chunk=True)

    def _make_finish(self, looks: bool, clipping: Clipping | None) -> Callable[..., Any]:
        def finish(_: list[Any]) -> tuple[Any, Any, Any]:
            assert self._sums is not None
            gradients = self._sums.means()
            return self._update(gradients, clipping, self._looked_at([], gradients, looks), kept=[])

        return self._compiled(finish, [], is_chunk=True)

    def _gradients(self, batch_and_settings: tuple[Any, Any]) -> tuple[tuple[Any, Any, Any], list[Any]]:
        """What the model gives for the batch, and the gradients; None where there is none."""
        self._optimizers.check_known(self._model)
        variables = self._optimizers.trained
        with tf.GradientTape(persistent=len(self._optimizers.owners) > 1) as tape:
            with self._own_draws.looked_for() if self._model.keeps_states else nullcontext():
                results = self._results(batch_and_settings, inference_mode=False)
            losses = self._optimizers.losses(results[0])
        if len(losses) == 1:
            return results, _of_trained(tape.gradient(losses[0], variables), variables)
        gradients: list[Any] = [None] * len(variables)
        for owner, loss in zip(self._optimizers.owners, losses, strict=True):
            for place, gradient in zip(owner.places, tape.gradient(loss, owner.of(variables)), strict=True):
                gradients[place] = gradient
        return results, _of_trained(gradients, variables)

    def _looked_at(self, losses: list[Any], gradients: list[Any], looks: bool) -> list[Any] | None:
        """What has to be finite; None: nobody looks."""
        if not looks:
            return None
        # Infinite gradients are what a loss scaler works with: it leaves out such a step itself.
        of_weights = [] if self._optimizers.are_scaled else [each for each in gradients if each is not None]
        return [*losses, *of_weights]

    def _update(
        self, gradients: list[Any], clipping: Clipping | None, looked_at: list[Any] | None, kept: list[tuple[Any, Any]]
    ) -> tuple[Any, Any, Any]:
        """Whether all is finite (None: nobody looked), whether the weights moved (None: they did), and the norm."""
        iterations = [tf.identity(variable.value) for variable in self._optimizers.iterations]
        norm = None
        is_finite = None if looked_at is None else tf.reduce_all(tf.stack([True, *map(_is_finite, looked_at)]))
        if clipping is not None:
            gradients, norm = self._optimizers.clipped(gradients, clipping)
        if is_finite is None:
            self._apply(gradients)
        else:
            tf.cond(is_finite, lambda: self._apply(gradients), lambda: _put_back(kept))
        if not self._optimizers.are_scaled:
            return is_finite, None, norm
        now = self._optimizers.iterations
        moved = [variable.value != before for variable, before in zip(now, iterations, strict=True)]
        return is_finite, tf.reduce_any(tf.stack(moved)), norm

    def _apply(self, gradients: list[Any]) -> None:
        # Not before all of them are there: an error on the way must not leave weights that are half updated.
        latest = self._model.latest
        variables = self._optimizers.trained
        with tf.control_dependencies([gradient for gradient in gradients if gradient is not None]):
            latest.is_updating = True
            for owner in self._optimizers.owners:
                of_owner = zip(owner.of(gradients), owner.of(variables), strict=True)
                pairs = [pair for pair in of_owner if pair[1].trainable]
                owner.optimizer.apply([gradient for gradient, _ in pairs], [variable for _, variable in pairs])
            latest.is_updating = False

    def _make_evaluate(self, join: Join, arrays: list[Any]) -> Callable[..., Any]:
        def evaluate(arrays: list[Any]) -> tuple[Any, Any, Any]:
            return self._results(join(arrays), inference_mode=True)

        return self._compiled(evaluate, arrays, trains=False)

    def _results(self, batch_and_settings: tuple[Any, Any], inference_mode: bool) -> tuple[Any, Any, Any]:
        return self._model.results(*batch_and_settings, inference_mode=inference_mode)

    def _compiled(
        self, function: Callable[..., Any], example: list[Any], is_chunk: bool = False, trains: bool = True
    ) -> Callable[..., Any]:
        if self._eager:
            return lambda arrays: function([tf.convert_to_tensor(array) for array in arrays])

        def traced(arrays: list[Any]) -> Any:
            with self.tracing() if trains else nullcontext():
                return function(arrays)

        # With a signature one trace serves every batch; without, one for each shape, until TensorFlow relaxes them.
        specs = [_spec_of(spec, is_chunk) for spec in self._signature] if example else []
        rest = [tf.TensorSpec(array.shape, array.dtype) for array in example[len(specs) :]]
        shapes = {"input_signature": [specs + rest]} if specs else {"reduce_retracing": True}
        # By XLA where Keras's own fit would; it halves the time of a small step.
        options = {"jit_compile": self._model.jit_compile, **shapes, **self._compile_kwargs}
        return Traced(tf.function(traced, autograph=False, **options), has_signature=bool(specs))


def _of_trained(gradients: Iterable[Any], variables: Iterable[Any]) -> list[Any]:
    """One for each variable; None for those that were frozen since the optimizers were built."""
    pairs = zip(gradients, variables, strict=True)
    return [dense(gradient, variable) if variable.trainable else None for gradient, variable in pairs]


def _spec_of(spec: Any, is_chunk: bool) -> Any:
    shape = [None, *spec.shape[1:]] if is_chunk and len(spec.shape) else spec.shape
    return tf.TensorSpec(shape, spec.dtype)


def _is_finite(value: Any) -> Any:
    array = tf.convert_to_tensor(value)
    parts = [tf.math.real(array), tf.math.imag(array)] if array.dtype.is_complex else [array]
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(part)) for part in parts])


def _values_of(variables: Iterable[Any]) -> list[tuple[Any, Any]]:
    return [(variable, tf.identity(variable.value)) for variable in variables]


def _put_back(kept: list[tuple[Any, Any]]) -> None:
    for variable, value in kept:
        variable.assign(value)
