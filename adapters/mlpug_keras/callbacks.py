"""``mlpug.tensorflow.callbacks`` and ``mlpug.jax.callbacks``: what every backend has, and what these two tell."""

from __future__ import annotations

from importlib import import_module

import keras

from mlpug import callbacks
from mlpug.callbacks import *  # noqa: F403 - all of it, so that a new callback is on every backend at once
from mlpug.callbacks import Callback, LogDeviceMemory
from mlpug.errors import ConfigurationError
from mlpug_keras.as_native import as_native

__all__ = ["EmptyCudaCache", "LogCudaMemory", "as_native"]
__all__ += callbacks.__all__

_memory = import_module(f"mlpug_keras.{keras.config.backend()}_memory")


class LogCudaMemory(LogDeviceMemory):
    """Prints the memory of each GPU as a table, and writes it to ``training_params.memory.<device>.<column>``.

    The columns are ``free``, ``used``, ``largest_used`` and ``total``, in bytes. On JAX they are of the part of the
    device that JAX may take, and used is what arrays take. TensorFlow tells what tensors take, ``used`` and
    ``largest_used``, and nothing of the device: the other two aren't there. Only the first process prints.

    Args:
        log_period: look at the first batch of an epoch, and each `log_period` batches later; and at its end.
        batch_level: whether to look during an epoch, or only at its end.

    Raises:
        ConfigurationError: there is no GPU whose memory the backend tells of, or a period below 1.

    >>> gpu_callbacks = [LogCudaMemory(log_period=100)] if _memory.has_gpu() else []
    """

    def __init__(self, log_period: int = 200, batch_level: bool = True) -> None:
        _memory.check()
        super().__init__(_memory.cuda_memory, log_period, batch_level)


class EmptyCudaCache(Callback):
    """There is none here: made on TensorFlow or JAX, it says so. See `mlpug.pytorch`.

    Raises:
        ConfigurationError: always, with what to do instead.

    >>> EmptyCudaCache()
    Traceback (most recent call last):
    mlpug.errors.ConfigurationError: EmptyCudaCache empties PyTorch's cache ...
    """

    def __init__(self, batch_period: int | None = None) -> None:
        raise ConfigurationError(
            f"EmptyCudaCache empties PyTorch's cache, and {_memory.NAME} has none that can be emptied. Leave it out; "
            f"so that {_memory.NAME} takes less of the GPU, {_memory.TAKE_LESS}."
        )
