"""Saves the best and the latest model, and what training goes on from."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from mlpug import checkpoints
from mlpug.callbacks.callback import STATES, Callback
from mlpug.callbacks.checkpoint_files import (
    CheckpointFiles,
    Moment,
    base_of,
    facts,
    time_stamp,
    training_checkpoints_in,
)
from mlpug.callbacks.checkpoint_options import (
    check_combination,
    check_metric,
    checked_base,
    checked_hyper_parameters,
    checked_path,
)
from mlpug.callbacks.checkpoint_owed import Owed
from mlpug.callbacks.checkpoint_schedule import NOTHING, CheckpointSchedule, Plan, as_float, metric_value, without
from mlpug.checkpoints.background import BackgroundSaver
from mlpug.errors import CheckpointMismatchError, CheckpointWriteError, MlpugWarning
from mlpug.logs import Logs
from mlpug.model_checkpoint import model_checkpoint_state
from mlpug.validation import checked_count

PathLike: TypeAlias = str | os.PathLike[str]


class CheckpointManager(Callback):
    """Saves the best and the latest model, and training checkpoints that ``start_training(resume_from=...)`` takes.

    Each is one file, which is replaced as a whole: whatever happens, the old or the new one is there. A period of n
    means after n, 2n, 3n, ... batches, counted over all epochs (or after as many epochs, where `batch_level` is False).
    When training ends, also by Ctrl-C or an error, the latest model and the training checkpoint are saved once more.
    Only the first process writes.

    When the metric improves, ``logs["best"]`` becomes a copy of ``logs["current"]``, in which ``is_best`` is True until
    the next batch (or epoch) is done. So put this callback behind those that write the metric.

        <base>-best-model-checkpoint.safetensors
        <base>-latest-model-checkpoint.safetensors
        <base>-model-checkpoint-<global_iter>.safetensors    archived, after this many batches
        <base>-training-checkpoint.safetensors

    Args:
        checkpoints_path: The directory of the files; made where it isn't there.
        base_checkpoint_filename: How their names start; by default the time when this callback is made.
        batch_level: Whether periods count batches, and checkpoints are made within epochs; else they count epochs.
        metric_to_monitor: The path of the metric in the logs, of which the best model is saved; of a tuple the first
            value counts. None: no model is the best.
        metric_opt_mode: ``"min"`` where a smaller metric is better, or ``"max"``.
        metric_monitor_period: How often to look at the metric; by default each 200 batches, or each epoch.
        metric_checkpoint_threshold: A best model is saved only where its metric is at least this good.
        allow_checkpointing_at_start: False: the first batch (or epoch) is passed over, whatever the periods are.
        create_checkpoint_every: How often to save the latest model and the training checkpoint; by default each 200
            batches, or each epoch.
        archive_last_model_checkpoint_every: How often to keep the latest model under a name of its own; None: never.
        create_latest_model_checkpoint: Whether to save the latest model.
        create_training_checkpoint: Whether to save training checkpoints.
        keep_archived: How many of the archived models to keep, the latest ones; None: all.
        model_hyper_parameters: Whatever is needed to make the model again; comes back with
            ``mlp.load_model_checkpoint``.
        save_in_background: Copy what is to be saved, and write it while training goes on, which takes as much memory
            as the checkpoint. An error is raised at the next batch. At most one save is under way: the next one, and
            the end of training, wait for it.

    Raises:
        ConfigurationError: Arguments that can't work, hyper-parameters that a checkpoint can't hold, or a directory
            that can't be written to.
        CheckpointWriteError: While training: a checkpoint can't be written. The older one is still there.

    >>> import tempfile
    >>> import numpy as np
    >>> from mlpug.testing import GradientDescent, LinearRegression, fake_trainer
    >>> from mlpug.trainers import TrainingManager
    >>> model = LinearRegression(num_features=1)
    >>> trainer = fake_trainer(GradientDescent(model.parameters), model)
    >>> trainer.set_training_model(model)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     saves = CheckpointManager(directory, "line", metric_to_monitor=None, create_checkpoint_every=100)
    ...     TrainingManager(trainer, [(np.ones((2, 1)), np.ones(2))], num_epochs=5, callbacks=[saves]).start_training()
    ...     print(*sorted(path.name for path in Path(directory).iterdir()), sep="\\n")
    line-latest-model-checkpoint.safetensors
    line-training-checkpoint.safetensors
    """

    def __init__(
        self,
        checkpoints_path: PathLike = "checkpoints",
        base_checkpoint_filename: str | None = None,
        batch_level: bool = True,
        metric_to_monitor: str | None = "validation.dataset.loss",
        metric_opt_mode: str = "min",
        metric_monitor_period: int | None = None,
        metric_checkpoint_threshold: float | None = None,
        allow_checkpointing_at_start: bool = True,
        create_checkpoint_every: int | None = None,
        archive_last_model_checkpoint_every: int | None = None,
        create_latest_model_checkpoint: bool = True,
        create_training_checkpoint: bool = True,
        keep_archived: int | None = None,
        model_hyper_parameters: Any = None,
        save_in_background: bool = False,
    ) -> None:
        check_metric(metric_to_monitor, metric_monitor_period, metric_checkpoint_threshold)
        check_combination(
            monitors=metric_to_monitor is not None,
            creates_often=create_latest_model_checkpoint or create_training_checkpoint,
            create_every=create_checkpoint_every,
            archive_every=archive_last_model_checkpoint_every,
            keep_archived=keep_archived,
        )
        usual = 200 if batch_level else 1
        self._schedule = CheckpointSchedule(
            monitor_every=None if metric_to_monitor is None else _or_usual(metric_monitor_period, usual),
            opt_mode=metric_opt_mode,
            threshold=metric_checkpoint_threshold,
            checkpoint_every=_or_usual(create_checkpoint_every, usual),
            archive_every=archive_last_model_checkpoint_every,
            latest=create_latest_model_checkpoint,
            training=create_training_checkpoint,
            at_start=allow_checkpointing_at_start,
        )
        self._metric = metric_to_monitor
        self._batch_level = batch_level
        self._keep_archived = None if keep_archived is None else checked_count("keep_archived", keep_archived)
        self._hyper_parameters = checked_hyper_parameters(model_hyper_parameters)
        self._saver = BackgroundSaver() if save_in_background else None
        self._has_own_base = base_checkpoint_filename is not None
        base = checked_base(base_checkpoint_filename) if self._has_own_base else time_stamp()
        self._files = CheckpointFiles(checked_path(checkpoints_path), base)
        self._files.check_writable()
        self._best: float | None = None
        self._to_beat: float | None = None  # by what becomes the best file: the best so far, unless that was lost
        self._in_file: float | None = None  # the metric of the best model that was written
        self._lost: float | None = None  # the metric of a better one that couldn't be
        self._owed = Owed()
        self._looked_at: float | None = None  # the metric of what is due
        self._is_saving_best = False  # in the moment whose state is asked for
        self._has_looked = self._has_found = False
        self._due = NOTHING
        self._ended: str | None = None  # "batch" or "epoch", what ended last; None where nothing has
        self._model_position: tuple[int, str | None] | None = None  # of the latest model checkpoint
        self._training_position: tuple[int, str | None] | None = None

    def required_of_run(self) -> Iterable[str]:
        """States, which not every strategy of a host can give."""
        return (STATES,)

    def required_metric_paths(self) -> Iterable[str]:
        """The metric that is monitored."""
        return () if self._metric is None else (self._metric,)

    def get_state(self) -> Any:
        """The best metric so far; nothing where none is monitored."""
        if self._metric is None:
            return {}
        best = {"best": self._best, "has_looked": self._has_looked, "has_found": self._has_found}
        to_beat = self._to_beat
        metric = self._looked_at if self._is_saving_best else None
        if metric is not None and self._schedule.improves(metric, to_beat):
            to_beat = metric  # a training checkpoint is written after the best model, if that could be
        if to_beat != self._best:
            best["to_beat"] = to_beat
        return {**best, "metric": self._metric, "opt_mode": self._schedule.opt_mode}

    def set_state(self, state: Any) -> None:
        """Go on from there; of another metric, or where the other way is better, the best value is none of this one."""
        if not state or self._metric is None:
            return
        there = (
            state.get("metric", self._metric),
            state.get("opt_mode", self._schedule.opt_mode),
        )  # older files: neither
        here = self._metric, self._schedule.opt_mode
        best = _as_metric(state["best"])
        if there != here and best is not None:
            self.manager.logs.pop("best", None)
            warnings.warn(
                f"The best model of the run before was the one with the best {_named(*there)}: {best:g}. "
                f"This run is to look at {_named(*here)}, whose best value begins anew, and its first best model "
                "replaces that one. Give another base_checkpoint_filename to keep it.",
                MlpugWarning,
                stacklevel=2,
            )
            return
        self._best = best
        self._to_beat = self._in_file = _as_metric(state.get("to_beat", best))
        self._lost = self._best if "to_beat" in state else None
        self._has_looked, self._has_found = state["has_looked"], state["has_found"]

    def training_checkpoints(self) -> list[Path] | None:
        """The files that training can go on from, those first that should be tried first.

        Those of `base_checkpoint_filename`; where that wasn't given, all in the directory. None: this callback makes no
        training checkpoints.
        """
        if not self._schedule.training:
            return None
        if self._has_own_base:
            return [self._files.training] if os.path.lexists(self._files.training) else []
        return training_checkpoints_in(self._files.directory)

    def lock_file(self, resumed_from: PathLike | None) -> Path:
        """What is locked while a run that goes on from this training checkpoint writes its files."""
        return self._files_after(resumed_from).lock

    def resumed_from(self, path: PathLike) -> None:
        """Go on with the files of the run that training resumes, where no other name was asked for."""
        self._files = self._files_after(path)

    def _files_after(self, resumed_from: PathLike | None) -> CheckpointFiles:
        base = None if resumed_from is None or self._has_own_base else base_of(Path(resumed_from))
        if base is None or Path(resumed_from or "").resolve().parent != self._files.directory.resolve():
            return self._files
        return replace(self._files, base=base)

    def on_training_start(self, logs: Logs) -> None:
        """Remove what a killed process didn't finish; what training starts from doesn't have to be saved again."""
        if self.manager.trainer.process.rank == 0:
            checkpoints.remove_leftovers(self._files.directory, f"{self._files.base}-")
        self._model_position = self._training_position = self._position()

    def on_batch_training_completed(self, batch: Any, logs: Logs) -> None:
        """Decide, by batch, what to save when all callbacks have heard of it."""
        self._ended = "batch"
        if self._batch_level:
            self._decide(self.manager.global_iter, logs)

    def on_epoch_completed(self, logs: Logs) -> None:
        """Decide, by epoch."""
        self._ended = "epoch"
        if not self._batch_level:
            self._decide(logs["current"]["epoch"] + 1, logs)

    def on_rest(self, logs: Logs, is_last: bool) -> None:
        """Save what was decided; at the end of training also what has changed since it was saved last."""
        plan, self._due = self._due, NOTHING
        try:
            if self._saver is not None:
                self._saver.wait() if is_last else self._saver.check()
        finally:  # an earlier save that has failed doesn't keep this one from being tried
            plan = self._final(plan) if is_last else self._with_owed(plan)
            if plan.saves:
                self._save(plan, logs, None if is_last else self._saver)

    def on_training_ended(
        self,
        logs: Logs,
        stopped_early: bool,
        stopped_on_error: bool,
        interrupted: bool,
        callback_calls_success: bool,
    ) -> None:
        """Say that there is no best model, where one was expected, or that it is an older one."""
        is_missing = self._metric is not None and self._best is None
        is_cut_short = stopped_on_error or interrupted or (stopped_early and not self._has_looked)
        if is_missing and not is_cut_short and self.manager.trainer.process.rank == 0:
            warnings.warn(f"There is no best model: {self._reason()}", MlpugWarning, stacklevel=2)
        if self._lost is not None and not stopped_on_error:
            written = "was before" if self._in_file is None else f"could be written: it had {self._in_file:g}"
            warnings.warn(
                f"The best model, whose {self._metric} was {self._lost:g}, is lost: it couldn't be written when it was "
                f"there, see the error in the log. {self._files.best} is the best one that {written}.",
                MlpugWarning,
                stacklevel=2,
            )

    def _decide(self, position: int, logs: Logs) -> None:
        metric = None
        if self._metric is not None and self._schedule.looks_at(position):
            metric = metric_value(self._metric, logs.at(self._metric))
            self._has_looked = True
            self._has_found |= metric is not None
        self._due, self._looked_at = self._schedule.plan(position, metric, self._best), metric
        logs["current"]["is_best"] = self._due.is_best
        if self._to_beat != self._best and metric is not None:
            beats = self._schedule.plan(position, metric, self._to_beat)
            self._due = replace(self._due, save_best=beats.save_best)
            self._to_beat = metric if beats.is_best else self._to_beat
        elif self._due.is_best:
            self._to_beat = metric
        if self._due.is_best:
            self._best = metric
            logs["best"] = logs["current"].snapshot()

    def _position(self) -> tuple[int, str | None]:
        return self.manager.global_iter, self._ended

    def _final(self, plan: Plan) -> Plan:
        """What is left to save when training ends."""
        position = self._position()
        return replace(
            self._with_owed(plan, is_last=True),
            save_latest=self._schedule.latest and self._model_position != position,
            save_training=self._schedule.training and self._training_position != position,
        )

    def _with_owed(self, plan: Plan, is_last: bool = False) -> Plan:
        if self._owed.is_empty:
            return plan
        return self._owed.added_to(plan, self._position(), is_last, self._is_alone())

    def _save(self, plan: Plan, logs: Logs, saver: BackgroundSaver | None) -> None:
        moment = self._moment(plan, logs)  # by every process: states are gathered
        if self.manager.trainer.process.rank > 0:
            self._note(moment)
        elif saver is None:
            self._write(moment)
        else:
            saver.start(partial(self._write, moment.copied()))

    def _moment(self, plan: Plan, logs: Logs) -> Moment:
        manager = self.manager
        backend, global_iter = manager.trainer.adapter.backend, manager.global_iter
        model = training = None
        if plan.saves_model:
            components, epoch = manager.get_model_state(), logs["current"]["epoch"]
            model = model_checkpoint_state(backend, components, self._hyper_parameters, logs, global_iter, epoch)
        if plan.save_training:
            self._is_saving_best = plan.save_best
            training = manager.get_state()
            self._is_saving_best = False
        metric = self._looked_at if plan.save_best else None
        return Moment(plan, self._position(), facts(logs, backend, global_iter), metric, model, training)

    def _write(self, moment: Moment) -> None:
        try:
            self._files.write(moment, self._keep_archived)
        except CheckpointWriteError:
            self._note(moment, self._files.missing(moment))
            raise
        self._note(moment)

    def _note(self, moment: Moment, missing: Plan = NOTHING) -> None:
        written = without(moment.plan, missing)
        if written.save_latest:
            self._model_position = moment.position
        if written.save_training:
            self._training_position = moment.position
        self._owed.written(written)
        if missing.saves:
            self._owed.failed(missing, moment.position)
        if written.save_best:
            self._best_written(moment.metric)
        if missing.save_best:
            self._lost = moment.metric
            if self._is_alone():  # others don't know, and have to decide the same
                self._to_beat = self._in_file

    def _best_written(self, metric: float | None) -> None:
        self._in_file = metric
        if metric is not None and self._schedule.improves(metric, self._to_beat):
            self._to_beat = metric
        if self._lost is not None and not self._schedule.improves(self._lost, metric):
            self._lost = None

    def _is_alone(self) -> bool:
        return self.manager.trainer.process.world_size == 1

    def _reason(self) -> str:
        period = f"{self._schedule.monitor_every} {'batches' if self._batch_level else 'epochs'}"
        if not self._has_looked:
            return (
                f"training ended before {self._metric} was looked at for the first time. "
                f"metric_monitor_period is {period}: make it shorter than training."
            )
        if not self._has_found:
            return (
                f"{self._metric} was never in the logs when it was looked at, every {period}. Put the callback that "
                "writes it before the CheckpointManager, and look at it when it is there."
            )
        return f"{self._metric} was never a number that is better than another: it was NaN, or infinitely bad."


def _as_metric(best: Any) -> float | None:
    """The best metric of a checkpoint, in which somebody may have put something else."""
    if best is not None and (isinstance(best, bool) or not isinstance(best, (int, float))):
        raise CheckpointMismatchError(
            f"The checkpoint has {best!r:.50} as the best metric, where a number is expected: resume from another one."
        )
    return None if best is None else as_float(best)


def _named(metric: str | None, opt_mode: str) -> str:
    return "no metric" if metric is None else f"{metric} ({opt_mode})"


def _or_usual(period: int | None, usual: int) -> int:
    return usual if period is None else period
