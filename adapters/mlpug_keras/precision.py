"""mlpug's words for precision as Keras's dtype policies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from mlpug.errors import ConfigurationError

_POLICIES = {
    "32-true": "float32",
    "bf16-mixed": "mixed_bfloat16",
    "16-mixed": "mixed_float16",
    "bf16-true": "bfloat16",
}


def set_precision(training_model: Any, precision: str, optimizers: Mapping[str, Any] | None = None) -> None:
    """Let the layers compute so, if all of them compute alike; where some do already, it is as somebody made it.

    Weights that are there already are converted in place, but for those that a layer has in a type of their own.

    Args:
        training_model: whose layers they are.
        precision: one of mlpug's words.
        optimizers: those that will train it, by name.

    Raises:
        ConfigurationError: layers differ and none computes so, or weights would have to be converted of which an
            optimizer has a state already.

    >>> layer = keras.layers.Dense(2)
    >>> set_precision(layer, "bf16-mixed")
    >>> layer.compute_dtype, layer.variable_dtype
    ('bfloat16', 'float32')
    """
    wanted = keras.DTypePolicy(_POLICIES[precision])
    layers = list(training_model._flatten_layers())
    # Those that only hold others compute nothing themselves, and neither do inputs.
    found = {
        layer.dtype_policy.name
        for layer in layers
        if not layer._layers and not isinstance(layer, keras.layers.InputLayer)
    }
    if wanted.name in found:
        return
    cure = (
        f"Make it after keras.config.set_dtype_policy({wanted.name!r}), with dtype=... for the layers that are to "
        "differ, or leave precision out."
    )
    if len(found) > 1:
        raise ConfigurationError(
            f"precision={precision!r} can't be set: the layers of the model compute in {', '.join(sorted(found))}, and "
            f"none in {wanted.name}. {cure}"
        )
    to_convert = [
        variable
        for layer in layers
        for variable in (*layer._trainable_variables, *layer._non_trainable_variables)
        if layer.variable_dtype != wanted.variable_dtype and _dtype_of(variable) == layer.variable_dtype
    ]
    has_state = next((name for name, optimizer in (optimizers or {}).items() if optimizer.built), None)
    if to_convert and has_state is not None:
        raise ConfigurationError(
            f"precision={precision!r} can't be set: {to_convert[0].path} is there already as "
            f"{_dtype_of(to_convert[0])}, and the optimizer {has_state!r} was built on it. Give a new optimizer. {cure}"
        )
    for layer in layers:
        layer.dtype_policy = wanted
    for variable in {id(variable): variable for variable in to_convert}.values():
        _convert(variable, wanted.variable_dtype)
    if to_convert:
        for layer in layers:
            _forget_functions(layer)


def _dtype_of(variable: Any) -> str:
    dtype: str = keras.backend.standardize_dtype(variable.dtype)
    return dtype


def _convert(variable: Any, dtype: str) -> None:
    value = keras.ops.cast(variable.value, dtype)
    variable._dtype = dtype
    variable._initialize(value)


def _forget_functions(layer: Any) -> None:
    """What a model has compiled for ``predict``, say, has the weights of before."""
    if isinstance(layer, keras.Model):
        layer.train_function = layer.test_function = layer.predict_function = None


def computes_in_float16(training_model: Any) -> bool:
    """Whether a layer does, so that gradients may become zero or infinite unless the loss is scaled."""
    return any(layer.compute_dtype == "float16" for layer in training_model._flatten_layers())
