"""The step on JAX."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np

from mlpug_keras.batches import Compiled, Join
from mlpug_keras.model import TrainingModel

Values = list[Any]


class Step:
    """Loss, gradients and update, by `jax.jit` unless it is to run eagerly."""

    compiler = staticmethod(jax.jit)  # takes the compile_kwargs

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
        self._train = {looks: Compiled(partial(self._make_train, looks)) for looks in (False, True)}
        self._evaluate = Compiled(self._make_evaluate)
        self._groups: tuple[Sequence[Any], ...] = ()

    @staticmethod
    def is_native(leaf: Any) -> bool:
        """Whether JAX computes with it as it is."""
        return isinstance(leaf, jax.Array)

    @staticmethod
    def read(arrays: list[Any]) -> list[Any]:
        """The arrays on the host; all of them are on their way before the first one is waited for."""
        if jax.default_backend() != "cpu":
            for array in arrays:
                array.copy_to_host_async()
        return [np.asarray(array.item()) if array.ndim == 0 else np.asarray(array) for array in arrays]

    @staticmethod
    def as_train_function(train: Callable[[], dict[str, Any]]) -> Callable[..., Any]:
        """What Keras calls on JAX; the state that it carries is empty."""
        return lambda state, iterator: (train(), state)

    def build(self, batch: Any, settings: Any) -> None:
        """Create the variables of layers that don't have theirs yet, without computing anything."""
        function, arrays = Compiled(lambda join, _: lambda arrays: self._loss(join(arrays), False)).of(batch, settings)
        with keras.StatelessScope():
            jax.eval_shape(function, arrays)

    def train(self, batch: Any, settings: Any, looks: bool) -> tuple[tuple[Any, Any, Any], bool]:
        """Train on the batch; return (loss, num_samples, auxiliary_results), and whether the weights changed.

        Where `looks` is True, they and all else stay where the loss or a gradient isn't finite.
        """
        function, arrays = self._train[looks].of(batch, settings)
        groups = self._variables()
        # The old values are given away to the compiled step, which makes the new ones in their place, as Keras's fit
        # does. `_value` and not `value`, which looks for scopes that aren't there, longer than the step takes to start.
        latest = self._model.latest
        old_state = [[variable._value for variable in group] for group in groups]
        try:
            results, is_finite, state = function(old_state, arrays)
        except BaseException:
            latest.is_updating = any(value.is_deleted() for values in old_state for value in values)
            raise
        latest.is_updating = True
        for variables, values in zip(groups, state, strict=True):
            for variable, value in zip(variables, values, strict=True):
                variable._direct_assign(value)
        latest.is_updating = False
        return results, not looks or bool(is_finite)

    def evaluate(self, batch: Any, settings: Any) -> tuple[Any, Any, Any]:
        """The same of the batch in inference mode."""
        function, arrays = self._evaluate.of(batch, settings)
        trainable, non_trainable, _ = self._variables()
        results: tuple[Any, Any, Any] = function([variable.value for variable in (*trainable, *non_trainable)], arrays)
        return results

    def _make_train(self, looks: bool, join: Join, arrays: list[Any]) -> Callable[..., Any]:
        def train(state: list[Values], arrays: list[Any]) -> tuple[Any, Any, list[Values]]:
            trainable, non_trainable, optimizer_values = state

            def loss_of(trainable: Values) -> tuple[Any, Any]:
                with self._scope([*trainable, *non_trainable]) as scope:
                    loss, rest = self._loss(join(arrays), inference_mode=False)
                _, variables, _ = self._variables()
                pairs = zip(variables, non_trainable, strict=True)
                changed = [_or(scope.get_current_value(variable), value) for variable, value in pairs]
                return self._scaled(loss, optimizer_values), (loss, rest, changed)

            (_, (loss, rest, changed)), gradients = jax.value_and_grad(loss_of, has_aux=True)(trainable)
            trainable, optimizer_values = self._optimizer.stateless_apply(optimizer_values, gradients, trainable)
            new_state = [trainable, changed, optimizer_values]
            if not looks:
                return (loss, *rest), None, new_state
            is_finite = self._are_finite(loss, gradients)
            return (loss, *rest), is_finite, self._chosen(is_finite, new_state, state)

        return train if self._eager else jax.jit(train, **{"donate_argnums": 0, **self._compile_kwargs})

    def _scaled(self, loss: Any, optimizer_values: Values) -> Any:
        with keras.StatelessScope(state_mapping=list(zip(self._optimizer.variables, optimizer_values, strict=True))):
            return self._optimizer.scale_loss(loss)

    def _are_finite(self, loss: Any, gradients: Values) -> Any:
        # Infinite gradients are what a loss scaler works with: it leaves out such a step itself.
        is_scaled = isinstance(self._optimizer, keras.optimizers.LossScaleOptimizer)
        looked_at = [loss] if is_scaled else [loss, *gradients]
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

        return evaluate if self._eager else jax.jit(evaluate, **self._compile_kwargs)

    def _loss(self, batch_and_settings: tuple[Any, Any], inference_mode: bool) -> tuple[Any, tuple[Any, Any]]:
        loss, *rest = self._model.results(*batch_and_settings, inference_mode=inference_mode)
        return loss, tuple(rest)

    def _scope(self, values: Values) -> Any:
        trainable, non_trainable, _ = self._variables()
        return keras.StatelessScope(state_mapping=list(zip((*trainable, *non_trainable), values, strict=True)))

    def _variables(self) -> tuple[Sequence[Any], ...]:
        """Trainable and other variables of the model, and the optimizer's; they are all there once it is built."""
        if not self._groups:
            model = self._model
            self._groups = (model.trainable_variables, model.non_trainable_variables, self._optimizer.variables)
        return self._groups


def _or(value: Any, otherwise: Any) -> Any:
    return otherwise if value is None else value
