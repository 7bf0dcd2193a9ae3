"""Keras's own callbacks in mlpug's list: which can't work, what they can monitor, and the loss that they are shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from mlpug.adapter import StepOutput
from mlpug.errors import ConfigurationError

_MANY = 1000  # losses that may wait on their device until somebody looks at their mean


def is_native(listener: Any) -> bool:
    """Whether it is a callback of Keras."""
    return isinstance(listener, keras.callbacks.Callback)


def check_counting(callback: keras.callbacks.Callback) -> None:
    """Refuse a callback of Keras that says itself where training begins."""
    if isinstance(callback, keras.callbacks.BackupAndRestore):
        raise ConfigurationError(
            "BackupAndRestore would set the epoch that training begins with, and mlpug counts epochs and batches "
            "itself. Take mlp.callbacks.CheckpointManager and manager.start_training(resume_from='auto'): that goes on "
            "with the batch that was next."
        )


def check_native(callback: keras.callbacks.Callback) -> None:
    """Refuse a callback of Keras that can't do here what it is for."""
    check_counting(callback)
    if isinstance(callback, keras.callbacks.SwapEMAWeights) and not callback.swap_on_epoch:
        raise ConfigurationError(
            "SwapEMAWeights() swaps the weights while Keras evaluates, and here mlpug's callbacks evaluate. Give "
            "swap_on_epoch=True: those behind it in the list then see the averaged weights at the end of an epoch."
        )
    if _infers_mode(callback) and not _is_loss(callback.monitor):
        raise ConfigurationError(
            f"{type(callback).__name__} monitors {callback.monitor!r}, and Keras can't know whether less or more of it "
            "is better: pass mode='min' or mode='max'."
        )


def monitored_besides(callbacks: Sequence[keras.callbacks.Callback]) -> set[str] | None:
    """What these can monitor beside mlpug's metrics; None where one of them may publish anything."""
    if any(_is_of_the_user(callback) for callback in callbacks):
        return None
    names = {"loss"}
    for callback in callbacks:
        if isinstance(callback, _WRITES_LEARNING_RATE):
            names.add("learning_rate")
        if isinstance(callback, keras.callbacks.ModelCheckpoint) and not callback.save_best_only:
            names.add(callback.monitor)  # which it then doesn't look at
    return names


def check_can_save(callbacks: Sequence[keras.callbacks.Callback], saved: Any) -> None:
    """Refuse a callback that saves the model where that has nothing to save itself with."""
    if isinstance(saved, keras.Model):
        return
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.ModelCheckpoint):
            raise ConfigurationError(
                f"{type(callback).__name__} saves a keras.Model, and the model component is a "
                f"{type(saved).__name__}: make it a keras.Model, or take mlp.callbacks.CheckpointManager."
            )


_WRITES_LEARNING_RATE = (
    keras.callbacks.LearningRateScheduler,
    keras.callbacks.ReduceLROnPlateau,
    keras.callbacks.TensorBoard,
)


def settle_modes(callbacks: Sequence[keras.callbacks.Callback]) -> None:
    """Less of any loss is better; Keras by itself knows that of ``loss`` and ``val_loss`` only."""
    for callback in callbacks:
        if _infers_mode(callback) and _is_loss(callback.monitor):
            callback.mode = "min"


def _infers_mode(callback: Any) -> bool:
    return getattr(callback, "mode", None) == "auto" and hasattr(callback, "_set_monitor_op")


def _is_loss(monitor: Any) -> bool:
    return str(monitor).split(".")[-1].split("_")[-1] == "loss"


def _is_of_the_user(callback: keras.callbacks.Callback) -> bool:
    """Whether the user's own code runs in it, which may put anything into the logs."""
    is_kerass = type(callback).__module__.split(".")[0] == "keras"
    return not is_kerass or isinstance(callback, keras.callbacks.LambdaCallback)


class RunningLoss:
    """The mean loss of an epoch so far, weighted by samples: what Keras shows as ``loss``.

    Nothing leaves the device before somebody looks, or a thousand losses wait there.

    Args:
        to_host: reads arrays of the backend.
    """

    def __init__(self, to_host: Callable[[Any], Any]) -> None:
        self._to_host = to_host
        self._waiting: list[tuple[Any, Any]] = []
        self._total = self._weight = 0.0

    def add(self, output: StepOutput) -> None:
        """Take the loss of a batch; where each optimizer has its own, their sum."""
        self._waiting.append((output.loss, output.num_samples))
        if len(self._waiting) == _MANY:
            self._read()

    def value(self) -> float:
        """The mean; NaN where there is nothing."""
        self._read()
        return self._total / self._weight if self._weight else float("nan")

    def reset(self) -> None:
        """Begin an epoch."""
        self._waiting = []
        self._total = self._weight = 0.0

    def get_state(self) -> dict[str, float]:
        """The sums."""
        self._read()
        return {"total": self._total, "weight": self._weight}

    def set_state(self, state: Mapping[str, float]) -> None:
        """Go on with the sums of an earlier run."""
        self._waiting = []
        self._total, self._weight = state["total"], state["weight"]

    def _read(self) -> None:
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        for loss, num_samples in self._to_host(waiting):
            if num_samples:
                number = sum(loss.values()) if isinstance(loss, Mapping) else loss
                self._total += float(number) * float(num_samples)
                self._weight += float(num_samples)
