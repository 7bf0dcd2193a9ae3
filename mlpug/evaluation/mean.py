"""Weighted means: over everything, and over the latest batches only."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Any


class WeightedMean:
    """Mean of a number from each batch, weighted by its number of samples; a `StreamingMetric`.

    Sums are in double precision; where nothing weighs anything the mean is NaN.

    >>> mean = WeightedMean()
    >>> mean.update(1.0, 3)
    >>> mean.update(2.0, 1)
    >>> mean.compute()
    1.25
    """

    def __init__(self) -> None:
        self.reset()

    def update(self, value: Any, weight: Any = 1) -> None:
        """Take a number, or a scalar array of any library, and its weight."""
        self._latest, weight = float(value), float(weight)
        self._total += self._latest * weight if weight else 0.0
        self._weight += weight
        self._count += 1

    def compute(self) -> float:
        """The mean of everything taken since the last reset."""
        # One value is its own mean: multiplied and divided again, its last bit could change.
        return self._latest if self._count == 1 and self._weight else ratio(self._total, self._weight)

    def reset(self) -> None:
        """Forget everything."""
        self._latest = math.nan
        self._count = 0
        self._total = 0.0
        self._weight = 0.0


class SlidingMean:
    """Weighted mean over the latest `length` batches, in constant time a batch and exact at any length.

    The running sum is exact (a few partial sums whose sum is the true one, after Shewchuk, "Adaptive precision
    floating-point arithmetic", 1997, as in ``math.fsum``): the mean never depends on what has left the window. A NaN or
    an infinity that leaves the window leaves the mean too.

    >>> mean = SlidingMean(length=2)
    >>> for value in (1e16, 1.0, 2.0):
    ...     mean.add([(value, 1)])
    >>> mean.value()
    1.5
    """

    def __init__(self, length: int) -> None:
        self._length = length
        self._window: deque[tuple[float, float]] = deque()
        self._partials: list[float] = []
        self._weight = 0.0
        self._not_finite = 0

    def add(self, values: Iterable[tuple[float, float]]) -> None:
        """Take the newest batch, as (value, weight) of each of its chunks; the oldest leaves a full window."""
        total = weight = 0.0
        for value, weight_of_value in values:
            total += value * weight_of_value if weight_of_value else 0.0
            weight += weight_of_value
        self._window.append((total, weight))
        self._count(total, weight, 1)
        if len(self._window) > self._length:
            total, weight = self._window.popleft()
            self._count(total, weight, -1)

    def value(self) -> float:
        """The mean over the window; NaN where it is empty or weighs nothing."""
        if self._not_finite:
            return ratio(math.fsum(_known(total for total, _ in self._window)), self._weight)
        return ratio(math.fsum(self._partials), self._weight)

    def _count(self, total: float, weight: float, sign: int) -> None:
        self._weight += sign * weight
        if math.isfinite(total):
            self._partials = _grown(self._partials, sign * total)
        else:
            self._not_finite += sign


def ratio(total: float, weight: float) -> float:
    """The mean, or NaN where nothing weighs anything."""
    return total / weight if weight else math.nan


def _known(totals: Iterable[float]) -> list[float]:
    """The totals, or a NaN where infinities of both signs, which math.fsum refuses, would give one."""
    found = list(totals)
    return [math.nan] if math.inf in found and -math.inf in found else found


def _grown(partials: list[float], value: float) -> list[float]:
    """The partial sums with one more value in them; what they sum to is exact."""
    grown: list[float] = []
    for partial in partials:
        if abs(value) < abs(partial):
            value, partial = partial, value
        high = value + partial
        low = partial - (high - value)
        if low:
            grown.append(low)
        value = high
    grown.append(value)
    return grown
