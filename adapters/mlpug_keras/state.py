"""What Keras and the optimizer need to go on: as plain data and arrays, and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
from keras.src.backend.common import global_state

from mlpug.dropped_states import warn_of_dropped_states
from mlpug.errors import CheckpointMismatchError, StateError
from mlpug.model_checkpoint import check_fits, check_names, check_optimizer_class
from mlpug.plain import from_plain, to_plain
from mlpug_keras.arrays import as_array, as_value
from mlpug_keras.components import component_variables

# Of a callback, set anew by Keras; the last one by CSVLogger, which looks whether its file is there already.
_HOSTS_OWN = ("_model", "model", "params", "validation_data", "append_header")


def model_state(training_model: Any, components: Mapping[str, Any]) -> dict[str, Any]:
    """Weights and seeds of the components, and of what the training model holds besides them."""
    variables = {name: component_variables(part, random=True) for name, part in components.items()}
    of_components = {id(variable) for part in variables.values() for variable in part.values()}
    remaining = {
        path: as_array(variable)
        for path, variable in component_variables(training_model, random=True).items()
        if id(variable) not in of_components
    }
    return {"model": {name: _arrays(part) for name, part in variables.items()}, "training_model": remaining}


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


def _arrays(variables: Mapping[str, Any]) -> dict[str, Any]:
    return {path: as_array(variable) for path, variable in variables.items()}


def optimizer_state(optimizer: keras.optimizers.Optimizer) -> dict[str, Any]:
    """Its variables in their order: their names have Keras's counters in them."""
    return {
        "class": type(optimizer).__name__,
        "variables": {str(number): as_array(variable) for number, variable in enumerate(optimizer.variables)},
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


def native_state(listeners: Sequence[Any]) -> dict[str, Any]:
    """What Keras's own callbacks remember, and the seeds of what has none of its own."""
    generator = _global_seed_generator()
    return {
        "callbacks": {key: _attributes(callback) for key, callback in _by_key(listeners)},
        "seed": None if generator is None else as_array(generator.state),
    }


def load_native_state(listeners: Sequence[Any], state: Mapping[str, Any]) -> None:
    """Give it back, after training started: that is when Keras's own callbacks forget everything."""
    warn_of_dropped_states(state["callbacks"], [key for key, _ in _by_key(listeners)])
    for key, callback in _by_key(listeners):
        attributes = state["callbacks"].get(key, {})
        if _has_compared(attributes) and hasattr(callback, "_set_monitor_op"):
            callback._set_monitor_op()  # before the attributes: it also changes the sign of one of them
        for name, value in attributes.items():
            setattr(callback, name, from_plain(value))
    if state["seed"] is not None:
        keras.src.random.seed_generator.global_seed_generator().state.assign(as_value(state["seed"]))


def _attributes(callback: keras.callbacks.Callback) -> dict[str, Any]:
    """Those that are plain data or arrays: Keras's callbacks have no states of their own to ask for."""
    attributes = {}
    for name, value in vars(callback).items():
        if name not in _HOSTS_OWN:
            try:
                attributes[name] = to_plain(value)
            except StateError:  # a function, a file, a writer: made anew, as when training started
                continue
    return attributes


def _has_compared(attributes: Mapping[str, Any]) -> bool:
    """Whether it is of a callback that monitors, and had chosen how: that is a function, and so isn't among them."""
    return "monitor" in attributes and "monitor_op" not in attributes


def _by_key(listeners: Sequence[Any]) -> Iterable[tuple[str, keras.callbacks.Callback]]:
    counts: Counter[str] = Counter()
    for listener in listeners:
        if isinstance(listener, keras.callbacks.Callback):
            name = type(listener).__name__
            counts[name] += 1
            yield (name if counts[name] == 1 else f"{name}-{counts[name]}"), listener


def _global_seed_generator() -> Any:
    """None where nothing has used it yet."""
    return global_state.get_global_attribute("global_seed_generator")
