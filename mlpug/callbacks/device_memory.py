"""How full the memory of the devices is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mlpug.callbacks.callback import Callback
from mlpug.logging import get_logger
from mlpug.logs import Logs
from mlpug.validation import checked_count

_COLUMNS = {"free": "free", "used": "used", "largest_used": "largest used", "total": "total"}


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """The memory of one device, in bytes; None where the backend doesn't tell.

    >>> DeviceMemory("cuda:0", free=3 * 2**30, used=2**30, largest_used=2 * 2**30, total=4 * 2**30).total
    4294967296
    """

    device: str  # such as "cuda:0", the same on every backend
    free: int | None  # what can still be taken
    used: int | None
    largest_used: int | None  # since the process started, between two looks too
    total: int | None


class LogDeviceMemory(Callback):
    """Prints the memory of each device as a table, and writes it to ``training_params.memory.<device>.<column>``.

    The columns are ``free``, ``used``, ``largest_used`` and ``total``, in bytes; one that the backend doesn't tell
    isn't there. Each process writes the memory of its own devices to its logs; only the first one prints. A backend's
    `LogCudaMemory` is one of these that knows how to read it.

    Args:
        read_memory: gives the memory of each device, as it is at the moment.
        log_period: look at the first batch of an epoch, and each `log_period` batches later; and at its end.
        batch_level: whether to look during an epoch, or only at its end.

    Raises:
        ConfigurationError: a period below 1.

    >>> card = DeviceMemory("cuda:0", free=3 * 2**30, used=2**30, largest_used=2 * 2**30, total=4 * 2**30)
    >>> list(LogDeviceMemory(lambda: [card]).metric_paths())
    ['training_params.memory']
    """

    def __init__(
        self, read_memory: Callable[[], Sequence[DeviceMemory]], log_period: int = 200, batch_level: bool = True
    ) -> None:
        self._read_memory = read_memory
        self._log_period = checked_count("log_period", log_period)
        self._batch_level = batch_level

    def metric_paths(self) -> Iterable[str]:
        """What the numbers lie below: the devices aren't asked before training."""
        return ["training_params.memory"]

    def on_batch_training_completed(self, batch: Any, logs: Logs) -> None:
        """Look, where it is time to."""
        if self._batch_level and logs["current"]["batch_step"] % self._log_period == 0:
            self._look(logs, f"epoch {logs['current']['epoch']}, batch {logs['current']['batch_step']}")

    def on_epoch_completed(self, logs: Logs) -> None:
        """Look at the end of the epoch."""
        self._look(logs, f"end of epoch {logs['current']['epoch']}")

    def _look(self, logs: Logs, when: str) -> None:
        memory = self._read_memory()
        logs["current"]["training_params"]["memory"] = Logs(**{each.device: _numbers(each) for each in memory})
        if self.manager.trainer.process.rank == 0:
            get_logger(type(self).__name__).info("%s\n%s\n", when, memory_table(memory))


def memory_table(memory: Iterable[DeviceMemory]) -> str:
    """A row for each device.

    >>> print(memory_table([DeviceMemory("cuda:0", free=None, used=2**20, largest_used=3 * 2**30, total=None)]))
    device           free         used largest used        total
    cuda:0              -      1.0 MiB     3.00 GiB            -
    """
    rows = [[each.device, *(as_size(getattr(each, column)) for column in _COLUMNS)] for each in memory]
    return "\n".join(
        " ".join([f"{device:<8}", *(f"{cell:>12}" for cell in cells)])
        for device, *cells in [["device", *_COLUMNS.values()], *rows]
    )


def as_size(num_bytes: int | None) -> str:
    """A number of bytes as the table shows it.

    >>> as_size(512 * 2**20), as_size(3 * 2**29), as_size(None)
    ('512.0 MiB', '1.50 GiB', '-')
    """
    if num_bytes is None:
        return "-"
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"


def _numbers(memory: DeviceMemory) -> Logs:
    numbers = {column: getattr(memory, column) for column in _COLUMNS}
    return Logs(**{column: number for column, number in numbers.items() if number is not None})
