"""What JAX tells of its devices' memory."""

from __future__ import annotations

from collections.abc import Mapping

import jax

from mlpug.callbacks import DeviceMemory
from mlpug.errors import ConfigurationError

NAME = "JAX"
TAKE_LESS = "set the environment variable XLA_PYTHON_CLIENT_PREALLOCATE=false before it starts"


def check() -> None:
    """Raise `ConfigurationError` where there is no GPU, or nothing to be known of its memory."""
    if not _gpus():
        raise ConfigurationError(
            f"LogCudaMemory needs a GPU, and JAX computes on {jax.default_backend()} here. Leave it out on this "
            "machine; where there is a GPU, install JAX for it: pip install 'jax[cuda12]'."
        )
    if any(device.memory_stats() is None for device in _gpus()):
        raise ConfigurationError(
            "LogCudaMemory can't know how much memory is used, because JAX doesn't count it here. Leave it out, or "
            "unset the environment variable XLA_PYTHON_CLIENT_ALLOCATOR, so that JAX manages memory itself."
        )


def has_gpu() -> bool:
    """Whether this process has one."""
    return bool(_gpus())


def cuda_memory() -> list[DeviceMemory]:
    """The memory of this process's GPUs."""
    return [from_stats(f"cuda:{device.id}", device.memory_stats() or {}) for device in _gpus()]


def from_stats(device: str, stats: Mapping[str, int]) -> DeviceMemory:
    """What `jax.Device.memory_stats()` says; some of it may not be there.

    >>> from_stats("cuda:0", {"bytes_in_use": 3, "peak_bytes_in_use": 5, "bytes_limit": 10})
    DeviceMemory(device='cuda:0', free=7, used=3, largest_used=5, total=10)
    """
    used, total = stats.get("bytes_in_use"), stats.get("bytes_limit")
    free = None if used is None or total is None else total - used
    return DeviceMemory(device, free=free, used=used, largest_used=stats.get("peak_bytes_in_use"), total=total)


def _gpus() -> list[jax.Device]:
    return [device for device in jax.local_devices() if device.platform in ("gpu", "cuda", "rocm")]
