"""When checkpoints are made: pure functions of where training is, the monitored metric, and the best one so far."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

from mlpug.errors import ConfigurationError
from mlpug.validation import checked_count


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do at one batch or epoch."""

    is_best: bool = False  # the metric improved
    save_best: bool = False  # and is good enough for a checkpoint
    save_latest: bool = False
    archive: bool = False
    save_training: bool = False

    @property
    def saves_model(self) -> bool:
        """Whether the state of the model is needed."""
        return self.save_best or self.save_latest or self.archive

    @property
    def saves(self) -> bool:
        """Whether anything is written."""
        return self.saves_model or self.save_training


NOTHING = Plan()  # at most batches


def without(plan: Plan, other: Plan) -> Plan:
    """What is to be written by the one and not by the other.

    >>> without(Plan(save_latest=True, archive=True), Plan(archive=True)) == Plan(save_latest=True)
    True
    """
    return Plan(
        save_best=plan.save_best and not other.save_best,
        save_latest=plan.save_latest and not other.save_latest,
        archive=plan.archive and not other.archive,
        save_training=plan.save_training and not other.save_training,
    )


@dataclass(frozen=True, slots=True)
class CheckpointSchedule:
    """Which checkpoints are wanted, and how often.

    A period of n means after n, 2n, 3n, ... batches or epochs.

    Raises:
        ConfigurationError: One of them is impossible; the message has the name that the CheckpointManager has for it.
    """

    monitor_every: int | None  # None: nothing is monitored
    opt_mode: str  # "min" or "max"
    threshold: float | None  # a best model is saved where the metric is at least this good
    checkpoint_every: int | None  # None: only at the end of training
    archive_every: int | None
    latest: bool  # whether there is a checkpoint of the latest model
    training: bool  # whether there is a training checkpoint
    at_start: bool  # whether anything happens at the first batch or epoch

    def __post_init__(self) -> None:
        _check_period("metric_monitor_period", self.monitor_every, "Leave it out for the usual one.")
        _check_period("create_checkpoint_every", self.checkpoint_every, "Leave it out for the usual one.")
        _check_period("archive_last_model_checkpoint_every", self.archive_every, "Leave it out to archive nothing.")
        if self.opt_mode not in ("min", "max"):
            raise ConfigurationError(
                'metric_opt_mode must be "min" (such as for a loss) or "max" (such as for an accuracy), '
                f"not {self.opt_mode!r}."
            )
        if not _is_threshold(self.threshold):
            raise ConfigurationError(
                f"metric_checkpoint_threshold must be a number, not {self.threshold!r}. "
                "Leave it out to save each best model, however good it is."
            )

    def looks_at(self, position: int) -> bool:
        """Whether the metric is looked at, after this many batches or epochs.

        >>> schedule = CheckpointSchedule(2, "min", None, None, None, latest=False, training=False, at_start=True)
        >>> [position for position in range(1, 6) if schedule.looks_at(position)]
        [2, 4]
        """
        return self._is_due(self.monitor_every, position)

    def plan(self, position: int, metric: float | None, best: float | None) -> Plan:
        """What to do.

        Args:
            position: How many batches or epochs are done, at least 1.
            metric: The monitored metric, None where it wasn't looked at or isn't there.
            best: The best one so far, None where there is none.

        >>> schedule = CheckpointSchedule(1, "max", 0.5, None, None, latest=False, training=False, at_start=True)
        >>> schedule.plan(1, 0.25, best=None)
        Plan(is_best=True, save_best=False, ...)
        >>> schedule.plan(2, 0.75, best=0.25)
        Plan(is_best=True, save_best=True, ...)
        >>> schedule.plan(3, 0.75, best=0.75)
        Plan(is_best=False, save_best=False, ...)
        """
        is_looked_at, is_due = self.looks_at(position), self._is_due(self.checkpoint_every, position)
        archive = self._is_due(self.archive_every, position)
        if not (is_looked_at or is_due or archive):
            return NOTHING
        is_best = is_looked_at and metric is not None and self.improves(metric, best)
        return Plan(
            is_best=is_best,
            save_best=is_best and metric is not None and self._is_good_enough(metric),
            save_latest=self.latest and is_due,
            archive=archive,
            save_training=self.training and is_due,
        )

    def improves(self, metric: float, best: float | None) -> bool:
        """Whether the metric is better than the best one so far."""
        return self._rank(metric) < (math.inf if best is None else self._rank(best))

    def _is_good_enough(self, metric: float) -> bool:
        return self.threshold is None or self._rank(metric) <= self._rank(self.threshold)

    def _rank(self, metric: float) -> float:
        """Smaller is better; what isn't a number is as bad as it gets.

        >>> schedule = CheckpointSchedule(1, "max", None, None, None, latest=False, training=False, at_start=True)
        >>> [schedule._rank(metric) for metric in (0.5, -math.inf, math.nan)]
        [-0.5, inf, inf]
        """
        if math.isnan(metric):
            return math.inf
        return metric if self.opt_mode == "min" else -metric

    def _is_due(self, period: int | None, position: int) -> bool:
        return period is not None and position % period == 0 and (self.at_start or position > 1)


def metric_value(path: str, value: Any) -> float | None:
    """The value that the logs have at a metric path as a number; of a tuple the first; None where there is none.

    Raises:
        ConfigurationError: It is something else, of which none can be called the best.

    >>> metric_value("validation.dataset.f1", (0.5, "details"))
    0.5
    """
    first = value[0] if isinstance(value, tuple) and value else value
    if first is None:
        return None
    if isinstance(first, Real) or getattr(first, "shape", None) == ():  # an array without axes
        return as_float(first)
    names = f": name one of its values, such as {path}.{next(iter(first))}" if isinstance(first, dict) and first else ""
    raise ConfigurationError(
        f"metric_to_monitor must be the path of a number, and {path} is a {type(first).__name__}{names}. "
        "A metric function may also return a tuple, of which the first value is monitored."
    )


def as_float(number: Any) -> float:
    """The number as a float; infinite where it is a whole number beyond all of them.

    >>> as_float(2), as_float(-(10**400))
    (2.0, -inf)
    """
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _check_period(name: str, period: object, cure: str) -> None:
    if period is not None:
        try:
            checked_count(name, period)
        except ConfigurationError as error:
            raise ConfigurationError(f"{error} {cure}") from None


def _is_threshold(value: Any) -> bool:
    return value is None or (isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value))
