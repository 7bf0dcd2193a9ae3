"""What a LightningModule's own step gave, told to mlpug's listeners."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mlpug.adapter import Run, StepOutput
from mlpug.errors import ConfigurationError
from mlpug.step_output import counted
from mlpug_lightning.batches import detached
from mlpug_lightning.bridge import LastBridge, is_left_out, tell
from mlpug_lightning.host import pl
from mlpug_lightning.kept_buffers import KeptBuffers
from mlpug_lightning.module import Latest
from mlpug_lightning.ported_gradients import KeptGradients
from mlpug_lightning.ported_kept import KeptLogs
from mlpug_lightning.ported_updates import KeptWeights

VALIDATION = "validation.dataset"  # where in the logs


class Settling(LastBridge):
    """The last listener, which hears of a batch, or of an epoch, when Lightning has finished with it.

    After the callbacks' hook come the module's own, a validation, schedules and loggers. So what a training checkpoint
    holds is what is there when the next batch is asked for, the epoch's end is told, or training ends.
    """

    def __init__(self, listeners: Sequence[Any], latest: Latest, on_epoch_told: Callable[[], None]) -> None:
        super().__init__(listeners, latest, on_epoch_told)
        self._heard: tuple[Any, ...] = ()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        latest = self._latest
        latest.is_ending = False
        is_none = is_left_out(batch, latest)
        self._heard = ("batch_left_out",) if is_none else ("batch_ended", batch, latest.step_output, latest.did_update)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._heard = ("epoch_ended", not self._latest.is_cut_short)
        self._on_epoch_told()

    def settle(self) -> None:
        """Tell what was heard: nothing is under way."""
        if self._heard:
            heard, self._heard = self._heard, ()
            tell(self._listeners, *heard)
            self._latest.step_output = None
            self._latest.chunks = []

    @property
    def is_settled(self) -> bool:
        """Whether Lightning has nothing left to do for what ended last."""
        return not self._heard and not self._latest.is_ending


@dataclass(frozen=True, slots=True)
class Moments:
    """What else is to be done at some moments of a run."""

    on_started: Callable[[], None]  # training starts
    on_sanity_checked: Callable[[Sequence[str]], None]  # the names of the metrics that a validation logs are known
    on_epoch_starts: Callable[[], None]  # before anybody hears of the start of one
    on_epoch_ends: Callable[[], None]  # before anybody hears of its end


class Leading(pl.Callback):
    """Always the first of all callbacks: it knows what a batch gave before anybody hears of it.

    Args:
        run: what is to be done.
        latest: what changes at each batch.
        settling: the last listener.
        module: the user's.
        is_exhausted: whether the data of the epoch has come to its end.
        moments: what else is to be done.
        keeps: whether a checkpoint may be asked for after an error in a step, which then must leave nothing behind.
    """

    is_of_mlpug = True

    def __init__(
        self,
        run: Run,
        latest: Latest,
        settling: Settling,
        module: pl.LightningModule,
        is_exhausted: Callable[[], bool],
        moments: Moments,
        keeps: bool,
    ) -> None:
        self._run = run
        self._latest = latest
        self._settling = settling
        self._module = module
        self._keeps = keeps
        self._kept: list[Any] = []
        self._weights: KeptWeights | None = None  # one of those
        self._is_exhausted = is_exhausted
        self._moments = moments
        self._steps: Any = None  # Lightning's count of updates
        self._steps_before = 0
        self._logged_at_steps: list[Any] = []  # of Lightning's results
        self._num_results = 0  # when it was made
        self._told: dict[str, Any] = {}  # the latest values of what the module logged

    def on_train_start(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        loop = trainer.fit_loop.epoch_loop
        automatic, manual = loop.automatic_optimization, loop.manual_optimization
        is_automatic = pl_module.automatic_optimization
        self._steps = (
            automatic.optim_progress.optimizer.step.total if is_automatic else manual.optim_step_progress.total
        )
        if self._keeps:
            self._weights = KeptWeights(trainer, self._module)
            self._kept = [self._weights, *_kept(trainer, self._module)]
        self._moments.on_started()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._settling.settle()
        if self._weights is not None:
            self._weights.forget_parameters()
        self._moments.on_epoch_starts()

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._settling.settle()  # where it isn't mlpug that asks for batches
        for kept in self._kept:
            kept.keep()
        self._steps_before = self._steps.completed
        self._latest.is_under_way = True

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        latest = self._latest
        latest.is_under_way, latest.is_ending = False, True
        latest.stepped_before = trainer.fit_loop.epoch_loop._batches_that_stepped
        if batch is None and not outputs:  # Lightning has left it out
            latest.step_output = None
            return
        latest.step_output = output = as_output(outputs, batch)
        has_moved = self._steps.completed != self._steps_before
        latest.did_update = has_moved and (bool(outputs) or not pl_module.automatic_optimization)
        logged = {"loss": output.loss}
        self._add_logged(logged, trainer.fit_loop.epoch_loop._results)
        self._run.on_metrics_logged("training.batch", logged)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            self._moments.on_sanity_checked([name for name, _ in _logged_for_epoch(trainer)])
        else:
            self._run.on_metrics_logged(VALIDATION, epoch_metrics(trainer))

    def on_train_epoch_end(self, trainer: Any, pl_module: pl.LightningModule) -> None:
        self._settling.settle()
        loop = trainer.fit_loop.epoch_loop
        self._latest.is_under_way = False  # where a hook left the rest of the epoch out
        is_complete = loop.batch_progress.is_last_batch or loop._num_ready_batches_reached() or self._is_exhausted()
        self._latest.is_cut_short = not is_complete
        self._told.clear()
        self._moments.on_epoch_ends()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._close()
        self._settling.settle()
        tell(_of_mlpug(self._run.listeners), "training_ended")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._close()

    def undo_step(self, num_steps: int) -> bool:
        """Undo what a step left in buffers and logs that an error ended; False: the weights have moved."""
        if self._latest.is_under_way:
            if num_steps != self._steps_before or (self._weights is not None and self._weights.have_changed):
                return False
            for kept in self._kept:
                kept.put_back()
            self._latest.is_under_way = False
        return True

    def _close(self) -> None:
        if self._weights is not None:
            self._weights.close()

    def _add_logged(self, logged: dict[str, Any], results: Any) -> None:
        """What the module logged in this batch; what its hook after the batch logs is seen in the epoch only."""
        if self._num_results != len(results):
            self._num_results = len(results)
            self._logged_at_steps = [(key, item) for key, item in results.items() if item.meta.on_step]
        for key, item in self._logged_at_steps:
            value = item._forward_cache
            if value is not self._told.get(key) and not item.has_reset and isinstance(value, torch.Tensor):
                self._told[key] = logged[item.meta.name] = value


class EpochMetrics(pl.Callback):
    """Tells what the module logged for an epoch, before mlpug's callbacks hear of the epoch's end."""

    is_of_mlpug = True

    def __init__(self, run: Run, latest: Latest) -> None:
        self._run = run
        self._latest = latest

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._latest.is_cut_short and (metrics := epoch_metrics(trainer)):
            self._run.on_metrics_logged("training.epoch", metrics)


class LateEpochMetrics(EpochMetrics, pl.callbacks.Checkpoint):
    """The same, after the module's own hook, which may log too: Lightning tells a `Checkpoint` then."""


class AtTrainStart(pl.Callback):
    """Does something when training starts."""

    is_of_mlpug = True

    def __init__(self, do: Callable[[], None]) -> None:
        self._do = do

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._do()


class AtFitStart(pl.Callback):
    """Does something when model, optimizers and callbacks are set up, where Lightning would restore a checkpoint."""

    is_of_mlpug = True

    def __init__(self, do: Callable[[], None]) -> None:
        self._do = do

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._do()


def validation_logs(run: Run, names: Sequence[str]) -> None:
    """Told by Lightning's sanity check; a module that logs nothing there may log in a validation that counts."""
    if not names:
        return
    try:
        run.on_names_known(VALIDATION, names)
    except ConfigurationError as error:
        error.add_note("Known by Lightning's sanity check: num_sanity_val_steps=0 leaves it out where it logs less.")
        raise


def epoch_metrics(trainer: Any) -> dict[str, Any]:
    """What was logged for an epoch, or for a validation, as Lightning reduces it; by the names that were logged."""
    values = ((name, trainer._results._get_cache(item, on_step=False)) for name, item in _logged_for_epoch(trainer))
    return {name: value for name, value in values if isinstance(value, torch.Tensor)}


def _logged_for_epoch(trainer: Any) -> list[tuple[str, Any]]:
    """By name. All of Lightning's results: its `valid_items` are those of one validation loader at a time."""
    results = trainer._results
    items = [item for item in results.values() if item.meta.on_epoch and not item.has_reset]
    return [(results._forked_name(item, on_step=False)[0], item) for item in items]


def as_output(outputs: Any, batch: Any) -> StepOutput:
    """What `training_step` returned. Where it has no loss, its batch counts nothing, and its loss is NaN."""
    if type(outputs) is dict and len(outputs) == 1 and "loss" in outputs:  # most do
        return StepOutput(outputs["loss"], counted(None, batch))
    rest = dict(outputs) if isinstance(outputs, Mapping) else {}
    loss = rest.pop("loss", None)
    num_samples = rest.pop("num_samples", None)
    auxiliary_results = detached(rest) or None
    if loss is None:
        return StepOutput(math.nan, 0, auxiliary_results)
    return StepOutput(loss, counted(num_samples, batch), auxiliary_results)


def _kept(trainer: Any, module: pl.LightningModule) -> list[Any]:
    return [KeptBuffers(module), KeptLogs(trainer, module), KeptGradients(trainer, module)]


def _of_mlpug(listeners: Sequence[Any]) -> list[Any]:
    return [listener for listener in listeners if not isinstance(listener, pl.Callback)]
