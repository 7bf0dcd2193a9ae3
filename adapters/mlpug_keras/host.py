"""Which backend Keras runs on in this process: Keras settles that once, when it is imported."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mlpug.errors import ConfigurationError, MissingDependencyError

_NAMES = {"tensorflow": "TensorFlow", "jax": "JAX"}


def use(backend: str) -> None:
    """Make Keras run on this backend, if it isn't loaded yet; refuse where it already runs on another.

    Raises:
        ConfigurationError: Keras is loaded on another backend, or TensorFlow uses the Keras that came before 3.
        MissingDependencyError: Keras or the backend isn't installed.
    """
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = backend
    if backend == "tensorflow":
        # Without what its C++ side tells about the processor; warnings stay. It is read when TensorFlow is imported.
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    try:
        importlib.import_module(backend)
        keras = importlib.import_module("keras")
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            f"mlpug.{backend} needs Keras 3 and {_NAMES[backend]} ({error}): pip install 'mlpug[{backend}]'"
        ) from error
    if keras.__version__.startswith("2."):
        raise ConfigurationError(
            f"mlpug.{backend} needs Keras 3, and Keras {keras.__version__} is installed: pip install 'keras>=3.11.3'"
        )
    if keras.config.backend() != backend:
        raise ConfigurationError(
            f"Keras was imported before mlpug.{backend} and runs on {keras.config.backend()} in this process, where "
            f"that can't be changed any more. Import mlpug.{backend} before keras, or set the environment variable "
            f"KERAS_BACKEND={backend} before Python starts; and use one of mlpug's Keras backends in a process."
        )
    if backend == "tensorflow" and os.environ.get("TF_USE_LEGACY_KERAS", "").lower() in ("1", "true"):
        raise ConfigurationError(
            "tf.keras is the Keras that came before 3 here, because TF_USE_LEGACY_KERAS is set, and mlpug.tensorflow "
            "needs Keras 3: unset TF_USE_LEGACY_KERAS."
        )


@contextmanager
def unchanged_errors() -> Iterator[None]:
    """Without Keras's rewriting of exceptions: they arrive as the objects that were raised."""
    import keras

    was_enabled = keras.config.is_traceback_filtering_enabled()
    keras.config.disable_traceback_filtering()
    try:
        yield
    finally:
        if was_enabled:
            keras.config.enable_traceback_filtering()
