"""What a script's layers hold beside variables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from mlpug.adapter import Holder

_CURE = "a variable of the layer: add_weight with trainable=False, or a keras.Variable"
_CURE_OF_DATA = "what its on_epoch_begin and on_epoch_end make of it, which a resumed run does again"


def holders_of_layers(*parts: Any) -> Iterator[Holder]:
    """Models and layers, with all layers in them, and what a model was compiled with."""
    for part in parts:
        if isinstance(part, keras.layers.Layer):
            yield from (_of_layer(layer, part) for layer in part._flatten_layers())
            given = getattr(part, "loss", None)
            if isinstance(given, keras.losses.Loss):
                yield Holder(
                    f"{type(part).__name__}.loss",
                    given,
                    "a keras.Variable that it has as an attribute",
                    keeps_variables=True,
                )


def holder_of_data(data: Any) -> Holder:
    """What ``fit`` draws from, which it asks for no state."""
    return Holder(type(data).__name__, data, _CURE_OF_DATA)


def _of_layer(layer: Any, root: Any) -> Holder:
    name = type(root).__name__
    return Holder(name if layer is root else f"{name} / {layer.name}", layer, _CURE, keeps_variables=True)
