"""What TensorFlow tells of its devices' memory."""

from __future__ import annotations

from collections.abc import Mapping

import tensorflow as tf

from mlpug.callbacks import DeviceMemory
from mlpug.errors import ConfigurationError

NAME = "TensorFlow"
TAKE_LESS = "call tf.config.experimental.set_memory_growth(gpu, True) for each GPU before it is used"


def check() -> None:
    """Raise `ConfigurationError` where there is no GPU."""
    if not has_gpu():
        raise ConfigurationError(
            "LogCudaMemory needs a GPU, and TensorFlow sees none here. Leave it out on this machine; where there is a "
            "GPU, install TensorFlow for it: pip install 'tensorflow[and-cuda]'."
        )


def has_gpu() -> bool:
    """Whether there is one; looking for it doesn't start it, so that it can still be configured."""
    return bool(tf.config.list_physical_devices("GPU"))


def cuda_memory() -> list[DeviceMemory]:
    """The memory of this process's GPUs."""
    numbers = range(len(tf.config.list_logical_devices("GPU")))
    return [from_info(f"cuda:{n}", tf.config.experimental.get_memory_info(f"GPU:{n}")) for n in numbers]


def from_info(device: str, info: Mapping[str, int]) -> DeviceMemory:
    """What `tf.config.experimental.get_memory_info` says, which is nothing of the device itself.

    >>> from_info("cuda:0", {"current": 3, "peak": 5})
    DeviceMemory(device='cuda:0', free=None, used=3, largest_used=5, total=None)
    """
    return DeviceMemory(device, free=None, used=info["current"], largest_used=info["peak"], total=None)
