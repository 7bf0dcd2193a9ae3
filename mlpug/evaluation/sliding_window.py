"""Metrics over the latest batches, computed when somebody looks."""

from __future__ import annotations

from collections import deque
from itertools import chain, islice
from typing import Any, Protocol

from mlpug.evaluation.mean import SlidingMean, WeightedMean, as_numbers
from mlpug.evaluation.metric import Metric, ToHost, value_and_weight
from mlpug.plain import from_plain, to_plain


class SlidingWindow(Protocol):
    """Takes the inputs of a metric from each batch; computes its value over the latest of them."""

    def add(self, inputs: list[Any]) -> None:
        """Take what the metric picked from one batch, from each of its chunks: nothing is computed or copied."""

    def value(self) -> Any:
        """The metric over the batches in the window."""

    def get_state(self) -> Any:
        """The batches in the window, as plain data and arrays on the host."""

    def set_state(self, state: Any) -> None:
        """Put the batches of an earlier window into this one, which is empty."""


def sliding_window(metric: Metric, length: int, to_host: ToHost) -> SlidingWindow:
    """The window for a metric: a mean is kept up to date, anything else is computed from the window's batches.

    >>> metric = Metric(inputs=lambda batch, output: (output.loss, output.num_samples), compute=WeightedMean())
    >>> window = sliding_window(metric, length=2, to_host=lambda tree: tree)
    >>> for loss in (4.0, 1.0, 2.0):
    ...     window.add([(loss, 32)])
    >>> window.value()
    1.5
    """
    if isinstance(metric.compute, WeightedMean):
        return _MeanWindow(length, to_host)
    return _InputsWindow(metric, length, to_host)


class _MeanWindow:
    """Adding keeps a reference; reading costs what was added since the last reading, whatever the length."""

    def __init__(self, length: int, to_host: ToHost) -> None:
        self._mean = SlidingMean(length)
        self._unread: deque[Any] = deque(maxlen=length)
        self._to_host = to_host

    def add(self, inputs: list[Any]) -> None:
        self._unread.append(inputs)

    def get_state(self) -> Any:
        self._settle()
        return self._mean.get_state()

    def set_state(self, state: Any) -> None:
        self._mean.set_state(state)

    def value(self) -> Any:
        self._settle()
        return self._mean.value()

    def _settle(self) -> None:
        # One transfer for all of them, where the backend can do that.
        read = iter(self._to_host([value_and_weight(chunk) for inputs in self._unread for chunk in inputs]))
        for inputs in self._unread:
            self._mean.add((as_numbers(value), float(weight)) for value, weight in islice(read, len(inputs)))
        self._unread.clear()


class _InputsWindow:
    """Keeps the inputs of `length` batches; each is copied to the host once, at the first reading after it came."""

    def __init__(self, metric: Metric, length: int, to_host: ToHost) -> None:
        self._metric = metric
        # A streaming metric gets its inputs as they were picked, still on their device.
        self._settled = _as_it_is if metric.streams else to_host
        self._to_host = to_host
        self._unread: deque[Any] = deque(maxlen=length)
        self._window: deque[Any] = deque(maxlen=length)

    def add(self, inputs: list[Any]) -> None:
        self._unread.append(inputs)

    def get_state(self) -> Any:
        self._settle()
        return to_plain([self._to_host(inputs) for inputs in self._window])

    def set_state(self, state: Any) -> None:
        self._window.extend(from_plain(state))

    def value(self) -> Any:
        self._settle()
        return self._metric.value(chain.from_iterable(self._window), _as_it_is)

    def _settle(self) -> None:
        self._window.extend(map(self._settled, self._unread))
        self._unread.clear()


def _as_it_is(tree: Any) -> Any:
    return tree
