"""Weighted means that are exact: over everything, and over the latest batches only."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import Any

_SCALE = 1074  # 2**-1074 is the smallest float above zero: every finite float is a whole number of them


class WeightedMean:
    """Mean of a number from each batch, weighted by its number of samples; a `StreamingMetric`.

    It is the true mean, rounded once: it doesn't depend on the order of the batches. Where nothing weighs anything it
    is NaN. A dict of numbers, such as a loss for each optimizer, gives a dict of means.

    >>> mean = WeightedMean()
    >>> mean.update(1.0, 3)
    >>> mean.update(2.0, 1)
    >>> mean.compute()
    1.25
    """

    def __init__(self) -> None:
        self._means = _Means()

    def update(self, value: Any, weight: Any = 1) -> None:
        """Take a number, or a scalar array of any library, and its weight."""
        self._means.add(value, float(weight))

    def compute(self) -> Any:
        """The mean of everything taken since the last reset."""
        return self._means.value()

    def reset(self) -> None:
        """Forget everything."""
        self._means = _Means()


class SlidingMean:
    """Weighted mean over the latest `length` batches, in constant time a batch at any length.

    It is exact, so it never depends on what has left the window: a NaN or an infinity leaves the mean with its batch.

    >>> mean = SlidingMean(length=2)
    >>> for value in (1e16, 1.0, 2.0):
    ...     mean.add([(value, 1)])
    >>> mean.value()
    1.5
    """

    def __init__(self, length: int) -> None:
        self._length = length
        self._window: deque[list[tuple[Any, float]]] = deque()
        self._mean = _Means()

    def add(self, batch: Iterable[tuple[Any, float]]) -> None:
        """Take the newest batch, as (value, weight) of each of its chunks; the oldest leaves a full window."""
        chunks = list(batch)
        self._window.append(chunks)
        for value, weight in chunks:
            self._mean.add(value, weight)
        if len(self._window) > self._length:
            for value, weight in self._window.popleft():
                self._mean.add(value, weight, -1)

    def get_state(self) -> list[list[Any]]:
        """The window: for each batch the value and weight of each chunk, one after the other."""
        return [[number for chunk in chunks for number in chunk] for chunks in self._window]

    def set_state(self, state: list[list[Any]]) -> None:
        """Take the window of an earlier mean; this one has none yet."""
        for numbers in state:
            self.add(zip(numbers[::2], numbers[1::2], strict=True))

    def value(self) -> Any:
        """The mean over the window; NaN where it is empty or weighs nothing."""
        return self._mean.value()


def as_numbers(value: Any) -> Any:
    """A scalar of any library as a float, or a dict of them.

    >>> import numpy as np
    >>> as_numbers({"generator": np.float32(0.5)})
    {'generator': 0.5}
    """
    if isinstance(value, Mapping):
        return {name: float(number) for name, number in value.items()}
    return float(value)


class _Means:
    """The mean of numbers, or of dicts of them: that of each name."""

    def __init__(self) -> None:
        self._mean = _ExactMean()
        self._by_name: dict[str, _ExactMean] = {}

    def add(self, value: Any, weight: float, count: int = 1) -> None:
        if isinstance(value, Mapping):
            for name, number in value.items():
                self._by_name.setdefault(name, _ExactMean()).add(float(number), weight, count)
        else:
            self._mean.add(float(value), weight, count)

    def value(self) -> Any:
        if self._by_name:
            return {name: mean.value() for name, mean in self._by_name.items()}
        return self._mean.value()


class _ExactMean:
    """A weighted mean of floats, in whole numbers: values can be taken out again without a trace."""

    def __init__(self) -> None:
        self._total = 0  # of value * weight, in units of 2**-2148
        self._weight = 0  # in units of 2**-1074
        self._not_finite: Counter[str] = Counter()  # by text: a NaN isn't equal to itself

    def add(self, value: float, weight: float, count: int = 1) -> None:
        """Count a value in; with a count of -1 take it out."""
        if not weight:
            return
        if not (math.isfinite(value) and math.isfinite(weight)):
            self._not_finite[str(value * weight)] += count
            return
        numerator, denominator = value.as_integer_ratio()
        weight_numerator, weight_denominator = weight.as_integer_ratio()
        # A denominator is a power of two, whose exponent is one less than its number of bits.
        shift = _SCALE + 1 - denominator.bit_length()
        weight_shift = _SCALE + 1 - weight_denominator.bit_length()
        self._total += (count * numerator * weight_numerator) << (shift + weight_shift)
        self._weight += (count * weight_numerator) << weight_shift

    def value(self) -> float:
        """The mean, rounded once: Python divides whole numbers of any size exactly."""
        not_finite = {float(text) for text, count in self._not_finite.items() if count}
        if not_finite:
            return not_finite.pop() if len(not_finite) == 1 else math.nan
        return self._total / (self._weight << _SCALE) if self._weight else math.nan
