"""``mlpug.pytorch.callbacks``: what every backend has, and what only PyTorch does."""

from __future__ import annotations

from typing import Any

import torch

from mlpug import callbacks
from mlpug.callbacks import *  # noqa: F403 - all of it, so that a new callback is on every backend at once
from mlpug.callbacks import Callback, DeviceMemory, LogDeviceMemory
from mlpug.errors import ConfigurationError
from mlpug.logs import Logs
from mlpug.validation import checked_count
from mlpug_lightning.as_native import as_native

__all__ = ["EmptyCudaCache", "LogCudaMemory", "as_native"]
__all__ += callbacks.__all__


class LogCudaMemory(LogDeviceMemory):
    """Prints the memory of each GPU as a table, and writes it to ``training_params.memory.<device>.<column>``.

    The columns are ``free``, ``used``, ``largest_used`` and ``total``, in bytes, as CUDA tells them of the device: what
    PyTorch keeps to give it out again, and what other processes hold, is used. What tensors take is
    `torch.cuda.memory_allocated`. A process looks at the GPUs that it computes on; only the first one prints.

    Args:
        log_period: look at the first batch of an epoch, and each `log_period` batches later; and at its end.
        batch_level: whether to look during an epoch, or only at its end.

    Raises:
        ConfigurationError: there is no GPU that PyTorch can use, or a period below 1.

    >>> gpu_callbacks = [LogCudaMemory(log_period=100)] if torch.cuda.is_available() else []
    """

    def __init__(self, log_period: int = 200, batch_level: bool = True) -> None:
        _check_there_is_a_gpu("LogCudaMemory")
        super().__init__(cuda_memory, log_period, batch_level)


class EmptyCudaCache(Callback):
    """Gives the memory that PyTorch keeps without using it back to the GPU, at the end of each epoch.

    Training has no more memory by it, and is slower where it takes the memory again: it is for other processes on the
    same GPU, and against a cache in pieces that are all too small.

    Args:
        batch_period: also after every so many batches.

    Raises:
        ConfigurationError: there is no GPU that PyTorch can use, or a period below 1.

    >>> gpu_callbacks = [EmptyCudaCache()] if torch.cuda.is_available() else []
    """

    def __init__(self, batch_period: int | None = None) -> None:
        _check_there_is_a_gpu("EmptyCudaCache")
        self._batch_period = None if batch_period is None else checked_count("batch_period", batch_period)

    def on_batch_training_completed(self, batch: Any, logs: Logs) -> None:
        """Empty it, where it is time to."""
        if self._batch_period is not None and (logs["current"]["global_iter"] + 1) % self._batch_period == 0:
            torch.cuda.empty_cache()

    def on_epoch_completed(self, logs: Logs) -> None:
        """Empty it."""
        torch.cuda.empty_cache()


def cuda_memory() -> list[DeviceMemory]:
    """The memory of the GPUs on which this process has tensors, and of its current one."""
    # Not of all: to ask for the memory of another process's GPU takes some hundred MB of it.
    current = torch.cuda.current_device()
    numbers = [n for n in range(torch.cuda.device_count()) if n == current or torch.cuda.memory_reserved(n) > 0]
    return [_memory_of(number) for number in numbers]


def _memory_of(number: int) -> DeviceMemory:
    free, total = torch.cuda.mem_get_info(number)
    used = total - free
    # CUDA remembers no maximum and PyTorch does, of its own: what else is on the device is counted as it is now.
    largest_used = used - torch.cuda.memory_reserved(number) + torch.cuda.max_memory_reserved(number)
    return DeviceMemory(f"cuda:{number}", free=free, used=used, largest_used=largest_used, total=total)


def _check_there_is_a_gpu(name: str) -> None:
    if not torch.cuda.is_available():
        raise ConfigurationError(
            f"{name} needs a GPU that PyTorch can use, and torch.cuda.is_available() is False here. Leave it out on "
            "this machine; where there is a GPU, install a build of PyTorch for it and check its driver."
        )
