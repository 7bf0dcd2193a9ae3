"""What Keras and the optimizer need to go on: as plain data and arrays, and back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import keras
from keras.src.backend.common import global_state

from mlpug.errors import CheckpointMismatchError
from mlpug.model_checkpoint import check_fits, check_names, check_optimizer_class
from mlpug_keras.arrays import as_array, as_value
from mlpug_keras.callback_state import CallbackStates
from mlpug_keras.components import component_variables
from mlpug_keras.held_variables import HeldVariables

NOTHING: Mapping[int, Any] = MappingProxyType({})


def model_state(
    training_model: Any, components: Mapping[str, Any], instead: Mapping[int, Any] = NOTHING
) -> dict[str, Any]:
    """Weights and seeds of the components, and of what the training model holds besides them.

    Args:
        training_model: what is trained.
        components: by name.
        instead: arrays that stand for variables with these ids.
    """
    variables = {name: component_variables(part, random=True) for name, part in components.items()}
    of_components = {id(variable) for part in variables.values() for variable in part.values()}
    remaining = {
        path: _array(variable, instead)
        for path, variable in component_variables(training_model, random=True).items()
        if id(variable) not in of_components
    }
    of_parts = {
        name: {path: _array(variable, instead) for path, variable in part.items()} for name, part in variables.items()
    }
    return {"model": of_parts, "training_model": remaining}


def load_model_state(training_model: Any, components: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Give them back; nothing is changed where something doesn't fit."""
    expected = model_state(training_model, components)
    check_names("model components", components, state["model"])
    variables = {name: component_variables(part, random=True) for name, part in components.items()}
    groups = [(name, expected["model"][name], state["model"][name], variables[name]) for name in components]
    of_training_model = component_variables(training_model, random=True)
    groups.append(("training_model", expected["training_model"], state["training_model"], of_training_model))
    for name, here, found, _ in groups:
        check_fits(name, here, found, same_dtypes=True)
    for _, _, found, variables_of_group in groups:
        for path, array in found.items():
            variables_of_group[path].assign(as_value(array))


def _array(variable: Any, instead: Mapping[int, Any]) -> Any:
    return instead[id(variable)] if id(variable) in instead else as_array(variable)


def held_variables(parts: Mapping[str, Any], optimizers: Iterable[keras.optimizers.Optimizer]) -> HeldVariables:
    """What models hold besides their weights, seeds and metrics, and besides what these optimizers have.

    Args:
        parts: layers or models, by the name that paths begin with.
        optimizers: whose states are kept by themselves.
    """
    layers = [part for part in parts.values() if isinstance(part, keras.layers.Layer)]
    held = HeldVariables()
    for layer in layers:
        held.leave_out(*layer.variables, *layer.metrics_variables)
    for optimizer in optimizers:
        held.leave_out(optimizer, *optimizer.variables)
    for name, part in parts.items():
        held.look_into(part, name)
    return held


def optimizer_state(optimizer: keras.optimizers.Optimizer, instead: Mapping[int, Any] = NOTHING) -> dict[str, Any]:
    """Its variables in their order, as in `model_state`: their names have Keras's counters in them."""
    return {
        "class": type(optimizer).__name__,
        "variables": {str(number): _array(variable, instead) for number, variable in enumerate(optimizer.variables)},
    }


def check_optimizers(optimizers: Mapping[str, keras.optimizers.Optimizer], states: Mapping[str, Any]) -> None:
    """Refuse the state of other optimizers, or of the same on other parameters. The optimizers must be built."""
    check_names("optimizers", optimizers, states)
    for name, optimizer in optimizers.items():
        check_optimizer_class(name, type(optimizer).__name__, states[name]["class"])
        shapes = [tuple(variable.shape) for variable in optimizer.variables]
        found_shapes = [tuple(array.shape) for array in states[name]["variables"].values()]
        if shapes != found_shapes:
            raise CheckpointMismatchError(
                f"The optimizer {name!r} has other variables than in the checkpoint: expected the shapes {shapes}, "
                f"found {found_shapes}."
            )


def load_optimizer_state(optimizer: keras.optimizers.Optimizer, state: Mapping[str, Any]) -> None:
    """Give it back."""
    for variable, array in zip(optimizer.variables, state["variables"].values(), strict=True):
        variable.assign(as_value(array))


class NativeState:
    """What Keras keeps by itself: the states of its own callbacks, and the seeds of what has none of its own."""

    def __init__(self) -> None:
        self._callbacks = CallbackStates()

    def begin(self, listeners: Sequence[Any]) -> None:
        """A run with these listeners begins."""
        self._callbacks.begin(listeners)

    def key_of(self, callback: Any) -> str | None:
        """What one of Keras's own callbacks is called in checkpoints."""
        return self._callbacks.key_of(callback)

    def training_started(
        self, state: Mapping[str, Any] | None, of_model: HeldVariables, is_of_native_run: bool = False
    ) -> None:
        """All have heard that training starts: give back what `get` gave, if a run is resumed."""
        self._callbacks.training_started(state, of_model, is_of_native_run)
        if state is not None and state["seed"] is not None:
            keras.src.random.seed_generator.global_seed_generator().state.assign(as_value(state["seed"]))

    def get(self, of_model: HeldVariables) -> dict[str, Any]:
        """All of it, besides what is known of the model."""
        generator = _global_seed_generator()
        return {
            "changes": self._callbacks.get(of_model),
            "seed": None if generator is None else as_array(generator.state),
        }


def _global_seed_generator() -> Any:
    """None where nothing has used it yet."""
    return global_state.get_global_attribute("global_seed_generator")
