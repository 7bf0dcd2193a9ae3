"""Moves learning rates by schedules: one step for each update of the weights, or for each epoch."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from mlpug.callbacks.callback import Callback
from mlpug.callbacks.checkpoint_schedule import metric_value
from mlpug.errors import ConfigurationError
from mlpug.logs import Logs
from mlpug.optimizer_settings import SCRIPT
from mlpug.plain import from_plain, to_plain

if TYPE_CHECKING:
    from mlpug.trainers.default_trainer import DefaultTrainer


class LRSchedulerWrapper(Callback):
    """Sets the learning rate before each batch (or epoch), by the number of updates (or epochs) before it.

    A batch that left the weights as they were, because its loss wasn't finite say, doesn't count. So ``lr`` in the logs
    is the rate that the batch was trained with.

    Args:
        schedulers: one scheduler, for the only optimizer, or several by the optimizer's name. A scheduler is a function
            that gives a factor for a step, counted from 0, by which the optimizer's own rate is multiplied (see
            `mlpug.scheduler_funcs`); a ``LearningRateSchedule`` of Keras, which gives the rate itself; or a scheduler
            of torch's, ``ReduceLROnPlateau`` too, for an optimizer of the trainer's.
        batch_level: steps are updates of the weights; else epochs.
        metric_to_monitor: the path of the metric that ``ReduceLROnPlateau`` goes by; where it isn't in the logs yet,
            that scheduler doesn't move.

    Raises:
        ConfigurationError: something that is no scheduler, a metric that no scheduler needs, or one that is missing;
            when the manager is made: an optimizer that the trainer doesn't have, or whose rate can't be set.

    >>> from mlpug.scheduler_funcs import linear_with_warmup
    >>> LRSchedulerWrapper(linear_with_warmup(num_warmup_steps=100, num_steps=1000)).name
    'LRSchedulerWrapper: *'
    """

    def __init__(self, schedulers: Any, batch_level: bool = True, metric_to_monitor: str | None = None) -> None:
        by_name = dict(schedulers) if isinstance(schedulers, Mapping) else {None: schedulers}
        if not by_name:
            raise ConfigurationError(
                "schedulers must be a scheduler, or schedulers by the names of optimizers, not {}."
            )
        self._schedules = {name: _schedule_of(scheduler) for name, scheduler in by_name.items()}
        self._batch_level = batch_level
        self._metric = metric_to_monitor
        goes_by_metric = any(schedule.goes_by_metric for schedule in self._schedules.values())
        if goes_by_metric and metric_to_monitor is None:
            raise ConfigurationError(
                'metric_to_monitor must be the path of a metric, such as "validation.dataset.loss", for a scheduler '
                "that goes by one."
            )
        if metric_to_monitor is not None and not goes_by_metric:
            raise ConfigurationError(
                f"metric_to_monitor={metric_to_monitor!r} has no effect: none of the schedulers goes by a metric. "
                "Leave it out."
            )
        self._num_steps = 0
        self._is_pending = False  # whether a step is to be made before the next batch or epoch
        self._pending_metric: float | None = None

    @property
    def name(self) -> str:
        """What the callback's state is kept under."""
        return f"LRSchedulerWrapper: {', '.join(name or '*' for name in self._schedules)}"

    def required_metric_paths(self) -> Iterable[str]:
        """The metric that is monitored."""
        return () if self._metric is None else (self._metric,)

    def required_of_run(self) -> Iterable[str]:
        """The optimizers."""
        return ["optimizers"]

    def check_trainer(self, trainer: DefaultTrainer) -> None:
        """Find the optimizers, whose rates must be free to be set."""
        if not trainer.optimizers:
            raise ConfigurationError(
                "LRSchedulerWrapper needs the optimizers when the manager is made, and here they are made when "
                "training starts: give the schedule where they are made, in configure_optimizers."
            )
        if None in self._schedules:
            if len(trainer.optimizers) > 1:
                raise ConfigurationError(
                    f"schedulers must be given by the names of optimizers where there are several: "
                    f"{', '.join(trainer.optimizers)}."
                )
            self._schedules = {next(iter(trainer.optimizers)): self._schedules[None]}
        for name, schedule in self._schedules.items():
            if name not in trainer.optimizers:
                raise ConfigurationError(
                    f"schedulers has a scheduler for {name!r}, and the optimizers are {', '.join(trainer.optimizers)}."
                )
            schedule.begin(trainer, name)

    def get_state(self) -> Any:
        """Counters, and the schedulers' own states."""
        return {
            "num_steps": self._num_steps,
            "is_pending": self._is_pending,
            "metric": self._pending_metric,
            "schedules": {name: schedule.get_state() for name, schedule in self._schedules.items()},
        }

    def set_state(self, state: Any) -> None:
        """Go on from there."""
        self._num_steps, self._is_pending = state["num_steps"], state["is_pending"]
        self._pending_metric = state["metric"]
        is_script = self.manager.resume_optimizer_settings == SCRIPT
        for name, schedule in self._schedules.items():
            if name in state["schedules"]:
                schedule.set_state(state["schedules"][name], self._num_steps, is_script)

    def on_training_start(self, logs: Logs) -> None:
        """The rates of the first step."""
        for schedule in self._schedules.values():
            schedule.start()

    def on_epoch_start(self, logs: Logs) -> None:
        """Those of this epoch."""
        if not self._batch_level:
            self._advance()

    def on_batch_training_start(self, batch: Any, logs: Logs) -> None:
        """Those of this batch."""
        if self._is_pending and self._batch_level:
            self._advance()

    def on_batch_training_completed(self, batch: Any, logs: Logs) -> None:
        """Count it, if it moved the weights."""
        if self._batch_level and logs["current"]["training"]["batch"]["did_update_model"]:
            self._note(logs)

    def on_epoch_completed(self, logs: Logs) -> None:
        """Count it."""
        if not self._batch_level:
            self._note(logs)

    def on_training_ended(
        self,
        logs: Logs,
        stopped_early: bool,
        stopped_on_error: bool,
        interrupted: bool,
        callback_calls_success: bool,
    ) -> None:
        """The rates of what would come next, as after a loop of one's own."""
        self._advance()

    def _note(self, logs: Logs) -> None:
        self._is_pending = True
        if self._metric is not None:
            self._pending_metric = metric_value(self._metric, logs.at(self._metric))

    def _advance(self) -> None:
        if self._is_pending:
            self._is_pending = False
            self._num_steps += 1
            for schedule in self._schedules.values():
                schedule.step(self._num_steps, self._pending_metric)


class Schedule(Protocol):
    """How a scheduler of some kind is used."""

    goes_by_metric: bool

    def begin(self, trainer: DefaultTrainer, name: str) -> None:
        """Take the optimizer, when the manager is made."""

    def start(self) -> None:
        """Training starts."""

    def step(self, number: int, metric: float | None) -> None:
        """So many steps are made."""

    def get_state(self) -> Any:
        """As plain data."""

    def set_state(self, state: Any, number: int, is_script: bool) -> None:
        """Take it back, after so many steps; with the script's rates, or with those of the state."""


class _Rates:
    """A function of the step: a factor, or the rate itself."""

    goes_by_metric = False

    def __init__(self, function: Callable[[int], Any], is_factor: bool) -> None:
        self._function = function
        self._is_factor = is_factor
        self._own_rate = 0.0

    def begin(self, trainer: DefaultTrainer, name: str) -> None:
        self._own_rate = trainer.adapter.learning_rates()[name]
        self._set: Callable[[float], None] = partial(trainer.set_learning_rate_for, name)
        self._set(self._own_rate)  # or it can't be set

    def start(self) -> None:
        self.step(0, None)

    def step(self, number: int, metric: float | None) -> None:
        value = float(self._function(number))
        self._set(self._own_rate * value if self._is_factor else value)

    def get_state(self) -> Any:
        return {"own_rate": self._own_rate}

    def set_state(self, state: Any, number: int, is_script: bool) -> None:
        if not is_script:
            self._own_rate = state["own_rate"]
        self.step(number, None)


class _Stepping:
    """A scheduler that is told of each step, and sets the rate of its optimizer itself, as torch's are."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self.goes_by_metric = "metrics" in inspect.signature(scheduler.step).parameters
        self._is_resumed = False

    def begin(self, trainer: DefaultTrainer, name: str) -> None:
        if getattr(self._scheduler, "optimizer", None) is not trainer.optimizers[name]:
            raise ConfigurationError(
                f"The {type(self._scheduler).__name__} for {name!r} moves the rate of another optimizer than the "
                "trainer's: make it with the one that is given to DefaultTrainer."
            )

    def start(self) -> None:
        """It has set the first rate when it was made."""

    def step(self, number: int, metric: float | None) -> None:
        arguments = (metric,) if self.goes_by_metric else ()
        if arguments == (None,):
            return
        if self._is_resumed:
            self._is_resumed = False
            with warnings.catch_warnings():  # that there was no update yet: it was in the run that is resumed
                warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
                self._scheduler.step(*arguments)
        else:
            self._scheduler.step(*arguments)

    def get_state(self) -> Any:
        return to_plain(self._scheduler.state_dict(), path=("scheduler",))

    def set_state(self, state: Any, number: int, is_script: bool) -> None:
        self._is_resumed = True
        if is_script and not self.goes_by_metric:
            # How most of torch's get to their rate after so many steps; what they remember holds the old rates.
            for _ in range(number):
                self.step(number, None)
                self._is_resumed = True
        else:
            self._scheduler.load_state_dict(from_plain(state))


def _schedule_of(scheduler: Any) -> Schedule:
    if callable(getattr(scheduler, "step", None)) and hasattr(scheduler, "load_state_dict"):
        return _Stepping(scheduler)
    if callable(scheduler) and not isinstance(scheduler, type):
        return _Rates(scheduler, is_factor=not hasattr(scheduler, "get_config"))  # which Keras's schedules have
    raise ConfigurationError(
        f"{scheduler!r} is no scheduler: expected a function step -> factor, a LearningRateSchedule of Keras, or a "
        "scheduler of torch."
    )
