"""The weights that an optimizer was built on, as paths that a checkpoint can hold, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from mlpug_keras.components import component_variables


def optimized_paths(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> list[str] | None:
    """The paths of the weights that the optimizer was built on, in its order.

    None where it isn't built yet, or has a weight that isn't the model's.

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(1)])
    >>> optimizer = keras.optimizers.Adam()
    >>> optimizer.build(model.layers[1].trainable_variables)
    >>> optimized_paths(model, optimizer)
    ['dense_1.kernel', 'dense_1.bias']
    """
    if not optimizer.built:
        return None
    paths = {id(variable): path for path, variable in component_variables(model).items()}
    found = [paths.get(id(variable)) for variable in optimizer._trainable_variables]
    return None if None in found else found  # type: ignore[return-value]


def build_optimizer(model: keras.Model, optimizer: keras.optimizers.Optimizer, paths: Sequence[str] | None) -> None:
    """Build it on the weights at these paths, as far as that can be done: it isn't built, and the model has them."""
    if optimizer.built or paths is None or not model.weights:
        return
    variables: dict[str, Any] = component_variables(model)
    if all(path in variables for path in paths):
        optimizer.build([variables[path] for path in paths])
