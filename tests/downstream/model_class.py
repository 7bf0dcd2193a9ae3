"""Keras's tests train layers that are trainers, and no models: for ``fit`` they are made models."""

import contextlib

import keras

OF_ANY_LAYER = keras.layers.Layer.__mro__


@contextlib.contextmanager
def as_model(model):
    """Within it the object is a `keras.Model` that does what it did."""
    own = type(model)
    if not isinstance(model, keras.Model):
        object.__setattr__(model, "__class__", _with_model(own))
    try:
        yield
    finally:
        object.__setattr__(model, "__class__", own)


def _with_model(own):
    """The class with Model among its bases, ahead of which stays what the class and its kind of layer define."""
    of_model = [name for name in vars(keras.Model) if not name.startswith("__")]
    bases = [base for base in own.__mro__ if base not in OF_ANY_LAYER]
    kept = {name: vars(base)[name] for base in reversed(bases) for name in of_model if name in vars(base)}
    return type(own.__name__, (own, keras.Model), kept)
