"""Metrics: what to take from each batch, and how to turn it into a value."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mlpug.adapter import StepOutput
from mlpug.errors import ConfigurationError
from mlpug.evaluation.mean import WeightedMean
from mlpug.evaluation.streaming import Stream, StreamingMetric, as_plain, is_streaming

ToHost = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Metric:
    """What to take from each batch, and how to turn it into a value.

    Args:
        inputs: ``inputs(batch, output)`` picks what the metric needs from a batch and the training model's
            `StepOutput` for it; any nesting of dicts and tuples around arrays and numbers.
        compute: ``compute(inputs)`` turns the inputs of one or many batches into a number, a tuple (its first value
            is what progress shows) or a dict. It gets the same nesting with numpy arrays: those of several batches
            are joined along their first axis, and a number from each batch becomes an array with an entry for each
            batch. Or a `StreamingMetric`, such as those of torchmetrics and of Keras: then a dataset streams through it
            in constant memory, and it gets the inputs as they were picked, still on their device: a tuple as
            positional arguments, a dict as named ones.

    Raises:
        ConfigurationError: `inputs` can't be called, or `compute` is neither a function nor a streaming metric.

    >>> accuracy = Metric(
    ...     inputs=lambda batch, output: {"label": batch[1], "logits": output.auxiliary_results},
    ...     compute=lambda inputs: float((inputs["logits"].argmax(axis=1) == inputs["label"]).mean()),
    ... )
    >>> labels, logits = np.array([0, 1]), np.array([[0.9, 0.1], [0.8, 0.2]])
    >>> accuracy.value([accuracy.inputs((None, labels), StepOutput(0.3, 2, logits))], to_host=lambda tree: tree)
    0.5
    """

    inputs: Callable[[Any, StepOutput], Any]
    compute: Callable[[Any], Any] | StreamingMetric

    def __post_init__(self) -> None:
        if not callable(self.inputs):
            raise ConfigurationError(f"Metric(inputs=...) must be a function of (batch, output), not {self.inputs!r}.")
        if isinstance(self.compute, type):
            raise ConfigurationError(
                f"Metric(compute=...) must be a function or a metric object, not the class {self.compute.__name__}: "
                "make an object of it."
            )
        if not callable(self.compute) and not is_streaming(self.compute):
            raise ConfigurationError(
                "Metric(compute=...) must be a function of the inputs, or have update, compute and reset as "
                f"torchmetrics' metrics have, not {self.compute!r}."
            )

    @property
    def streams(self) -> bool:
        """Whether batches stream through the metric, so that a dataset takes constant memory."""
        return is_streaming(self.compute)

    def collector(self, to_host: ToHost) -> Collector:
        """A fresh collector for the inputs of a number of batches."""
        if isinstance(self.compute, WeightedMean):
            return _Averaged(to_host)
        if self.streams:
            return Stream(self.compute)
        assert callable(self.compute)
        return _Joined(self.compute, to_host)

    def value(self, inputs: Iterable[Any], to_host: ToHost) -> Any:
        """The metric over the inputs of one or many batches."""
        collector = self.collector(to_host)
        for picked in inputs:
            collector.add(picked)
        return collector.value()


class Collector(Protocol):
    """Takes the inputs of batch after batch, and computes the metric over all of them."""

    def add(self, picked: Any) -> None:
        """Take the inputs of one batch."""

    def value(self) -> Any:
        """The metric over everything taken."""


class _Averaged:
    """Streams numbers and their weights through a mean."""

    def __init__(self, to_host: ToHost) -> None:
        self._mean = WeightedMean()
        self._to_host = to_host
        self._on_device: list[Any] = []

    def add(self, picked: Any) -> None:
        # Reading waits for the device: the batch before is read only now, so that the device already works on this one.
        self._settle()
        self._on_device.append(picked)

    def value(self) -> Any:
        self._settle()
        return self._mean.compute()

    def _settle(self) -> None:
        if self._on_device:
            self._mean.update(*value_and_weight(self._to_host(self._on_device.pop())))


class _Joined:
    """Keeps the inputs of all batches on the host, and hands them to the function at once."""

    def __init__(self, compute: Callable[[Any], Any], to_host: ToHost) -> None:
        self._compute = compute
        self._to_host = to_host
        self._on_device: list[Any] = []
        self._on_host: list[Any] = []

    def add(self, picked: Any) -> None:
        # As above: a batch is copied when the device already works on the next one.
        self._settle()
        self._on_device.append(picked)

    def value(self) -> Any:
        self._settle()
        return as_plain(self._compute(join(self._on_host)))

    def _settle(self) -> None:
        self._on_host.extend(self._to_host(picked) for picked in self._on_device)
        self._on_device.clear()


def value_and_weight(picked: Any) -> tuple[Any, Any]:
    """What `WeightedMean.update` takes of the inputs that were picked, as it would take them.

    >>> value_and_weight(0.5), value_and_weight((0.5, 32)), value_and_weight({"weight": 32, "value": 0.5})
    ((0.5, 1), (0.5, 32), (0.5, 32))
    """
    if isinstance(picked, dict) and "value" in picked:
        return picked["value"], picked.get("weight", 1)
    value, weight = picked if isinstance(picked, tuple) else (picked, 1)
    return value, weight


def join(batches: Sequence[Any]) -> Any:
    """The inputs of several batches as one: arrays joined along axis 0, numbers in an array, lists appended.

    >>> join([{"loss": 0.5, "label": np.array([1, 2])}, {"loss": 0.25, "label": np.array([3])}])
    {'loss': array([0.5 , 0.25]), 'label': array([1, 2, 3])}
    """
    first = batches[0]
    if isinstance(first, dict):
        return {key: join([batch[key] for batch in batches]) for key in first}
    if isinstance(first, tuple):
        joined = [join([batch[index] for batch in batches]) for index in range(len(first))]
        return type(first)(*joined) if hasattr(first, "_fields") else tuple(joined)
    if isinstance(first, list):
        return [item for batch in batches for item in batch]
    if first is None:
        return None
    if np.ndim(first) == 0:
        return np.asarray(batches)
    return np.concatenate(batches, axis=0)
