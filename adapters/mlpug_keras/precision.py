"""mlpug's words for precision as Keras's dtype policies."""

from __future__ import annotations

from typing import Any

import keras

from mlpug.errors import ConfigurationError

_POLICIES = {
    "32-true": "float32",
    "bf16-mixed": "mixed_bfloat16",
    "16-mixed": "mixed_float16",
    "bf16-true": "bfloat16",
}


def set_precision(training_model: Any, precision: str) -> None:
    """Let the layers compute so, if all of them compute alike; where some do already, it is as somebody made it.

    Raises:
        ConfigurationError: weights that are there already are of another type, or layers differ and none computes so.

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
    for layer in layers:
        for variable in (*layer._trainable_variables, *layer._non_trainable_variables):
            dtype = keras.backend.standardize_dtype(variable.dtype)
            if keras.backend.is_float_dtype(dtype) and dtype != wanted.variable_dtype:
                raise ConfigurationError(
                    f"precision={precision!r} can't be set: {variable.path} is there already as {dtype}, and would have"
                    f" to be {wanted.variable_dtype}. {cure}"
                )
    for layer in layers:
        layer.dtype_policy = wanted


def computes_in_float16(training_model: Any) -> bool:
    """Whether a layer does, so that gradients may become zero or infinite unless the loss is scaled."""
    return any(layer.compute_dtype == "float16" for layer in training_model._flatten_layers())
