"""The step on JAX."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

from mlpug.adapter import Clipping, StepOutput
from mlpug.step_output import counted, joined_outputs
from mlpug_keras.accumulation import (
    count_in,
    counted_part,
    largest,
    mean_of,
    overwrites,
    share,
    sum_dtype,
    weighted_mean,
)
from mlpug_keras.batches import Compiled, Join
from mlpug_keras.model import TrainingModel
from mlpug_keras.optimizers import Optimizers

Values = list[Any]
_weighted_mean = jax.jit(weighted_mean)


class Step:
    """Loss, gradients and update, by `jax.jit` unless it is to run eagerly.

    A whole batch is computed by one function. Where batches have chunks, each is computed by a function that adds to
    the sums of the gradients, and another one updates: so the memory is that of one chunk, and a batch of many chunks
    is compiled no longer than one of a few.
    """

    compiler = staticmethod(jax.jit)  # takes the compile_kwargs

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
        self._train: dict[tuple[bool, Clipping | None], Compiled] = {}
        self._add = Compiled(self._make_add)
        self._finish: dict[tuple[bool, Clipping | None], Callable[..., Any]] = {}
        self._evaluate = Compiled(self._make_evaluate)
        self._groups: tuple[Sequence[Any], ...] = ()
        self.tracing: Any = None  # of TensorFlow's step

    @staticmethod
    def is_native(leaf: Any) -> bool:
        """Whether JAX computes with it as it is."""
        return isinstance(leaf, jax.Array)

    @staticmethod
    def has_gpu() -> bool:
        """Whether JAX computes on one by default."""
        return bool(jax.default_backend() == "gpu")

    @staticmethod
    def read(arrays: list[Any]) -> list[Any]:
        """The arrays on the host; all of them are on their way before the first one is waited for."""
        if jax.default_backend() != "cpu":
            for array in arrays:
                array.copy_to_host_async()
        return [np.asarray(array.item()) if array.ndim == 0 else np.asarray(array) for array in arrays]

    @staticmethod
    def concatenate(arrays: list[Any]) -> Any:
        """Along the first axis; numpy's arrays stay numpy's."""
        is_numpy = all(isinstance(array, np.ndarray) for array in arrays)
        return np.concatenate(arrays) if is_numpy else jnp.concatenate(arrays)

    @staticmethod
    def as_train_function(train: Callable[[], dict[str, Any]]) -> Callable[..., Any]:
        """What Keras calls on JAX; the state that it carries is empty."""
        return lambda state, iterator: (train(), state)

    def build(self, batch: Any, settings: Any) -> None:
        """Create the variables of layers that don't have theirs yet, without computing anything."""
        function, arrays = Compiled(lambda join, _: lambda arrays: self._loss(join(arrays), False)).of(batch, settings)
        # Symbolic: what a regularizer gets of a weight, which has no value yet, is then the variable.
        with keras.StatelessScope(), keras.SymbolicScope():
            jax.eval_shape(function, arrays)

    def train(
        self, chunks: list[Any], settings: Any, looks: bool, clipping: Clipping | None
    ) -> tuple[StepOutput, bool, bool]:
        """Train on the chunks of a batch: what the model gave, whether the weights changed, and whether all is finite.

        Where `looks` is True, they and all else stay where the loss or a gradient isn't finite.
        """
        old_state, in_order = self._values(), self._optimizers.in_order
        if not self._model.has_chunks:
            function, arrays = self._train_for(looks, clipping).of(chunks[0], settings)
            results, is_finite, has_moved, norm, state = self._guarded(function, old_state, arrays)
            loss, num_samples, auxiliary_results = results
            output = StepOutput(in_order(loss), counted(num_samples, chunks[0]), auxiliary_results, in_order(norm))
        else:
            output, sums, changed = self._add_up(chunks, settings, old_state)
            if (looks, clipping) not in self._finish:
                self._finish[looks, clipping] = self._make_finish(looks, clipping)
            finish = self._finish[looks, clipping]
            is_finite, has_moved, norm, state = self._guarded(finish, old_state, sums, changed, output.loss)
            if has_moved is None and not isinstance(output.num_samples, int):
                has_moved = sums[1] > 0  # whether anything in the batch counts
            output = StepOutput(output.loss, output.num_samples, output.auxiliary_results, in_order(norm))
        latest = self._model.latest
        latest.is_updating = True
        for variables, values in zip(self._variables(), state, strict=True):
            for variable, value in zip(variables, values, strict=True):
                variable._direct_assign(value)
        latest.is_updating = False
        is_all_finite = is_finite is None or bool(is_finite)
        return output, is_all_finite and (has_moved is None or bool(has_moved)), is_all_finite

    def evaluate(self, batch: Any, settings: Any) -> tuple[Any, Any, Any]:
        """(loss, num_samples, auxiliary_results) of the batch in inference mode."""
        function, arrays = self._evaluate.of(batch, settings)
        trainable, non_trainable, _ = self._variables()
        results: tuple[Any, Any, Any] = function([variable.value for variable in (*trainable, *non_trainable)], arrays)
        return results

    def _add_up(self, chunks: list[Any], settings: Any, state: list[Values]) -> tuple[StepOutput, Any, Values]:
        """What the model gave for the batch, the sums of its gradients, and the other variables' new values."""
        trainable, changed, optimizer_values = state
        zeros = [
            jnp.zeros(value.shape, sum_dtype(variable))
            for variable, value in zip(self._variables()[0], trainable, strict=True)
        ]
        sums = (zeros, jnp.zeros(()), jnp.zeros(()))
        outputs = []
        in_order = self._optimizers.in_order
        for chunk in chunks:
            function, arrays = self._add.of(chunk, settings)
            count = count_in(chunk)
            results, sums, changed = function(trainable, optimizer_values, changed, sums, np.float32(count), arrays)
            loss, num_samples, auxiliary_results = results
            outputs.append(StepOutput(in_order(loss), counted(num_samples, chunk), auxiliary_results))
        return joined_outputs(outputs, self.concatenate, _weighted_mean), sums, changed

    def _guarded(self, function: Callable[..., Any], old_state: list[Values], *arguments: Any) -> Any:
        # The old values are given away to the compiled step, which makes the new ones in their place, as Keras's fit
        # does.
        try:
            return function(old_state, *arguments)
        except BaseException:
            self._model.latest.is_updating = any(value.is_deleted() for values in old_state for value in values)
            raise

    def _train_for(self, looks: bool, clipping: Clipping | None) -> Compiled:
        if (looks, clipping) not in self._train:
            self._train[looks, clipping] = Compiled(partial(self._make_train, looks, clipping))
        return self._train[looks, clipping]

    def _make_train(self, looks: bool, clipping: Clipping | None, join: Join, arrays: list[Any]) -> Callable[..., Any]:
        def train(state: list[Values], arrays: list[Any]) -> Any:
            trainable, non_trainable, optimizer_values = state
            results, gradients, changed = self._gradients(trainable, non_trainable, optimizer_values, join(arrays))
            return results, *self._updated(state, gradients, changed, results[0], looks, clipping)

        return self._compiled(train, donated=(0,))

    def _make_add(self, join: Join, arrays: list[Any]) -> Callable[..., Any]:
        def add(
            trainable: Values, optimizer_values: Values, non_trainable: Values, sums: Any, count: Any, arrays: list[Any]
        ) -> Any:
            results, gradients, changed = self._gradients(trainable, non_trainable, optimizer_values, join(arrays))
            totals, weights, reference = sums
            num_samples = count if results[1] is None else results[1]
            weight, reference = share(num_samples, reference)
            totals = [
                largest(total, gradient, weight, weights)
                if overwrites(variable)
                else total + counted_part(gradient, weight, str(total.dtype))
                for total, gradient, variable in zip(totals, gradients, self._variables()[0], strict=True)
            ]
            return results, (totals, weights + weight, reference), changed

        return self._compiled(add, donated=(3,))

    def _make_finish(self, looks: bool, clipping: Clipping | None) -> Callable[..., Any]:
        def finish(state: list[Values], sums: Any, changed: Values, loss: Any) -> Any:
            totals, weight, _ = sums
            gradients = [
                total.astype(value.dtype) if overwrites(variable) else mean_of(total, weight, value.dtype)
                for total, value, variable in zip(totals, state[0], self._variables()[0], strict=True)
            ]
            is_finite, has_moved, norm, new_state = self._updated(state, gradients, changed, loss, looks, clipping)
            # A batch in which nothing counts changes no weight, and its optimizers make no step.
            for part in (0, 2):
                pairs = zip(new_state[part], state[part], strict=True)
                new_state[part] = [jnp.where(weight > 0, new, old) for new, old in pairs]
            return is_finite, None if has_moved is None else has_moved & (weight > 0), norm, new_state

        return self._compiled(finish, donated=(0,))

    def _gradients(
        self, trainable: Values, non_trainable: Values, optimizer_values: Values, batch: tuple[Any, Any]
    ) -> tuple[tuple[Any, Any, Any], Values, Values]:
        """What the model gives for the batch, the gradients, and the other variables' new values."""

        def losses_of(trainable: Values) -> Any:
            with self._scope([*trainable, *non_trainable]) as scope:
                loss, rest = self._loss(batch, inference_mode=False)
            pairs = zip(self._variables()[1], non_trainable, strict=True)
            changed = [_or(scope.get_current_value(variable), value) for variable, value in pairs]
            with self._optimizer_scope(optimizer_values):
                losses = self._optimizers.losses(loss)
            return tuple(losses), (loss, rest, changed)

        losses, pull_back, (loss, rest, changed) = jax.vjp(losses_of, trainable, has_aux=True)
        if len(losses) == 1:
            (gradients,) = pull_back((jnp.ones_like(losses[0]),))
        else:
            gradients = [None] * len(trainable)
            for number, owner in enumerate(self._optimizers.owners):
                only = tuple(jnp.full_like(each, place == number) for place, each in enumerate(losses))
                (of_loss,) = pull_back(only)
                for place in owner.places:
                    gradients[place] = of_loss[place]
        return (loss, *rest), gradients, changed

    def _updated(
        self,
        state: list[Values],
        gradients: Values,
        changed: Values,
        loss: Any,
        looks: bool,
        clipping: Clipping | None,
    ) -> tuple[Any, Any, Any, list[Values]]:
        """Whether all is finite (None: nobody looked), and an optimizer made a step (None: it did); norm; new state."""
        trainable, _, optimizer_values = state
        is_finite = self._are_finite(loss, gradients) if looks else None
        norm = None
        if clipping is not None:
            with self._optimizer_scope(optimizer_values):
                gradients, norm = self._optimizers.clipped(gradients, clipping)
        new_trainable, new_values = list(trainable), []
        for owner, values in zip(self._optimizers.owners, self._by_optimizer(optimizer_values), strict=True):
            own, values = owner.optimizer.stateless_apply(values, owner.of(gradients), owner.of(trainable))
            new_values += values
            for place, value in zip(owner.places, own, strict=True):
                new_trainable[place] = value
        new_state = [new_trainable, changed, new_values]
        has_moved = self._has_moved(optimizer_values, new_values) if self._optimizers.are_scaled else None
        if is_finite is not None:
            new_state = self._chosen(is_finite, new_state, state)
        return is_finite, has_moved, norm, new_state

    def _has_moved(self, old: Values, new: Values) -> Any:
        """Whether an optimizer made a step: one that scales its loss leaves some out."""
        places = {id(variable): place for place, variable in enumerate(self._variables()[2])}
        own = [places[id(variable)] for variable in self._optimizers.iterations]
        return jnp.stack([new[place] != old[place] for place in own]).any()

    def _are_finite(self, loss: Any, gradients: Values) -> Any:
        # Infinite gradients are what a loss scaler works with: it leaves out such a step itself.
        losses = list(loss.values()) if isinstance(loss, Mapping) else [loss]
        looked_at = losses if self._optimizers.are_scaled else [*losses, *gradients]
        return jnp.stack([jnp.isfinite(value).all() for value in looked_at]).all()

    def _chosen(self, is_new: Any, new_state: list[Values], old_state: list[Values]) -> list[Values]:
        """By a selection and not by a branch: that is done in passing, wherever a value is written anyway."""
        kept = {id(variable) for variable in self._model.kept_variables}
        _, non_trainable, _ = self._variables()
        trainable, changed, optimizer_values = (
            [jnp.where(is_new, new, old) for new, old in zip(*pair, strict=True)]
            for pair in zip(new_state, old_state, strict=True)
        )
        seeds_go_on = [
            chosen if id(variable) in kept else new
            for variable, chosen, new in zip(non_trainable, changed, new_state[1], strict=True)
        ]
        return [trainable, seeds_go_on, optimizer_values]

    def _make_evaluate(self, join: Join, arrays: list[Any]) -> Callable[..., Any]:
        def evaluate(values: Values, arrays: list[Any]) -> tuple[Any, Any, Any]:
            with self._scope(values):
                loss, rest = self._loss(join(arrays), inference_mode=True)
            return (loss, *rest)

        return self._compiled(evaluate, donated=())

    def _compiled(self, function: Callable[..., Any], donated: tuple[int, ...]) -> Callable[..., Any]:
        if self._eager:
            return function
        # Which arguments can be given away is ours to know; whether any may be is the user's to say.
        may_donate = self._compile_kwargs.get("donate_argnums", donated) not in ((), [], None)
        options = {**self._compile_kwargs, "donate_argnums": donated if may_donate else ()}
        compiled: Callable[..., Any] = jax.jit(function, **options)
        return compiled

    def _loss(self, batch_and_settings: tuple[Any, Any], inference_mode: bool) -> tuple[Any, tuple[Any, Any]]:
        loss, *rest = self._model.results(*batch_and_settings, inference_mode=inference_mode)
        return loss, tuple(rest)

    def _scope(self, values: Values) -> Any:
        trainable, non_trainable, _ = self._variables()
        return keras.StatelessScope(state_mapping=list(zip((*trainable, *non_trainable), values, strict=True)))

    def _optimizer_scope(self, values: Values) -> Any:
        return keras.StatelessScope(state_mapping=list(zip(self._variables()[2], values, strict=True)))

    def _by_optimizer(self, values: Values) -> list[Values]:
        remaining = iter(values)
        return [[next(remaining) for _ in owner.optimizer.variables] for owner in self._optimizers.owners]

    def _values(self) -> list[Values]:
        # `_value` and not `value`, which looks for scopes that aren't there, longer than the step takes to start.
        return [[variable._value for variable in group] for group in self._variables()]

    def check_trained(self) -> None:
        """Refuse what `fit` on JAX fails of: weights that were frozen, or unfrozen, since the optimizers were built."""
        self._optimizers.check_unchanged(self._model)

    def _trainable(self) -> Sequence[Any]:
        return self._optimizers.trained if self._optimizers.is_built else self._model.trainable_variables

    def _variables(self) -> tuple[Sequence[Any], ...]:
        """Trainable and other variables of the model, and the optimizers'; they are all there once it is built."""
        if not self._groups:
            model = self._model
            self._groups = (self._trainable(), model.non_trainable_variables, self._optimizers.variables)
        return self._groups


def _or(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None else value
