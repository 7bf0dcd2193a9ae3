"""mlpug's adapter for a LightningModule of the user's own, which Lightning trains as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch

from mlpug.adapter import DataOptions, Holder, Run, StepOutput
from mlpug.datasets.data_of_host import DataOfHost
from mlpug.errors import CheckpointMismatchError, ConfigurationError
from mlpug.model_checkpoint import check_is_whole, check_names
from mlpug.stop_iteration import unwrapped
from mlpug_lightning.adapter import Native
from mlpug_lightning.averaged_weights import TrainedWeights, averages_in
from mlpug_lightning.bridge import Bridge, LateBridge, as_native_callbacks, is_ours, tell_start_and_end
from mlpug_lightning.components import component_state
from mlpug_lightning.holders import holders_of_optimizers, holders_of_run
from mlpug_lightning.host import check_is_ours, pl, replaced, running
from mlpug_lightning.makeup import KEY, Makeup
from mlpug_lightning.module import Latest
from mlpug_lightning.native_callbacks import check_counting, show_metrics, warn_if_not_resumable
from mlpug_lightning.on_lightning import OnLightning
from mlpug_lightning.parts import LastParts, in_parts
from mlpug_lightning.ported_chunks import Chunks
from mlpug_lightning.ported_data import LightningData, data_of
from mlpug_lightning.ported_evaluation import evaluated
from mlpug_lightning.ported_events import (
    VALIDATION,
    AtFitStart,
    AtTrainStart,
    EpochMetrics,
    LateEpochMetrics,
    Leading,
    Moments,
    Settling,
    validation_logs,
)
from mlpug_lightning.ported_gradients import check_accumulation, gradients_state
from mlpug_lightning.ported_metrics import MetricStates
from mlpug_lightning.ported_resuming import Resumed
from mlpug_lightning.ported_state import host_state, left_to_do
from mlpug_lightning.ported_trainer import LentTrainer
from mlpug_lightning.ported_validation import BeforeValidation
from mlpug_lightning.settings import ScriptSettings
from mlpug_lightning.sharding import no_checkpoints
from mlpug_lightning.state import optimizer_state

LOGS = ("training.batch", "training.epoch", VALIDATION)


class PortedAdapter(OnLightning):
    """Trains a LightningModule by Lightning's own loop: its own steps, optimizers, schedules and hooks.

    Args:
        trainer: runs the loop.
        module: what is trained.
        val_dataloaders: for Lightning's validation, where neither the module nor a DataModule has any.
        makes_batches_of_parts: whether a batch may be cut, or made of several.
    """

    def __init__(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        val_dataloaders: Any = None,
        makes_batches_of_parts: bool = False,
    ) -> None:
        super().__init__(trainer)
        self._makes_batches_of_parts = makes_batches_of_parts
        self._module = module
        self._val_dataloaders = val_dataloaders
        self._data: LightningData | None = None
        self._latest = Latest()
        self._settling: Settling | None = None
        self._leading: Leading | None = None
        self._before_validation = BeforeValidation(trainer, module, None, keeps=False)
        self._first_epoch = 0  # of mlpug's training, as Lightning counts
        self._resumed: Resumed | None = None
        self._is_stopped = False  # by `stop`, and not by one of Lightning's callbacks
        self._has_warned = False  # of callbacks that can't be resumed
        self._is_attached = False  # to a ``fit`` that somebody else calls
        self._at_cut: dict[str, Any] | None = None  # the host's state where an epoch was cut short
        self._lent: LentTrainer | None = None  # while it runs
        self._script = ScriptSettings({})
        self._trained = TrainedWeights()
        self._makeup = Makeup(lambda: {"model": module}, self._optimizers)
        self._metrics = MetricStates(module)

    @property
    def native(self) -> Native:
        """What Lightning works with."""
        return Native(self._trainer, self._module)

    def set_training_model(self, training_model: Any) -> None:
        """Take the module, and nothing else: it trains itself."""
        if training_model is not self._module:
            raise ConfigurationError(
                "A trainer made by from_lightning trains its module by the module's own training_step, and takes no "
                "other training model: leave out set_training_model, or make a DefaultTrainer of optimizers."
            )

    def as_dataset(self, given: Any, options: DataOptions) -> Any:
        """A loader, several of them, a LightningDataModule, or the module's own `train_dataloader`."""
        if isinstance(given, DataOfHost):
            return given
        self._data = data_of(given, self._module, self._trainer, options)
        if self._data.datamodule is not None and self._val_dataloaders is not None:
            raise ConfigurationError("val_dataloaders can't be given beside a DataModule, which has its own.")
        return self._data

    def fit(self, run: Run) -> None:
        """Let Lightning train."""
        trainer: Any = self._trainer  # Lightning sets its `callbacks` where no type checker sees it
        self._latest, self._is_stopped, self._at_cut = Latest(), False, None
        self._first_epoch = trainer.current_epoch
        data = self._data
        assert data is not None
        check_accumulation(trainer, data.keeps_states)
        self._before_validation = BeforeValidation(trainer, self._module, data, run.listeners[-1].is_asked_for)
        self._lent = lent = LentTrainer(trainer, self._module)
        try:
            with lent.used():
                trainer.callbacks = self._callbacks(run, lent.callbacks)
                self._fit(run, trainer, data)
        finally:
            self._resumed = None

    def _fit(self, run: Run, trainer: Any, data: LightningData) -> None:
        if self._resumed is not None:
            self._first_epoch = self._resumed.first_epoch
            self._resumed.start_counting(run.first_epoch, run.first_batch, data)
        trainer.fit_loop.max_epochs = self._first_epoch + run.num_epochs
        if data.num_batches_per_epoch is not None:
            trainer.limit_train_batches = data.num_batches_per_epoch * data.group_size
        if run.first_epoch >= run.num_epochs:  # resumed at its end: Lightning would do nothing, and tell nobody
            self._module.trainer = trainer
            self._module.configure_model()
            assert self._resumed is not None
            self._makeup.note()
            self._resumed.load_weights()
            tell_start_and_end(run.listeners, run.num_batches_per_epoch, [])
            return
        chunks = Chunks(run.chunks_of, self._latest, trainer, self._module)
        draws = data.drawn(self._first_epoch, before_fetch=self._goes_on)
        last_start_hook = replaced(
            trainer.strategy, "on_train_start", partial(self._start_hooks_called, trainer.strategy)
        )
        averages = self._trained.noted(trainer.callbacks)
        with (
            unwrapped(),
            running(trainer),
            draws,
            chunks.used(),
            self._before_validation.noted(),
            last_start_hook,
            averages,
        ):
            trainer.fit(
                self._module,
                train_dataloaders=data.given,
                val_dataloaders=self._val_dataloaders,
                datamodule=data.datamodule,
            )
        data.check_not_empty()

    def attach(self, run: Run) -> list[Any]:
        """For a ``fit`` that somebody else calls: what tells the run's listeners, in the order to be called in."""
        self._is_attached = True
        leading, settling = self._first_and_last(run, on_started=self._makeup.note_trained, on_epoch_told=lambda: None)
        return [
            AtFitStart(self._note_made),
            leading,
            AtFitStart(self._optimizers_made),
            EpochMetrics(run, self._latest),
            *as_native_callbacks(run.listeners[:-1], self._latest),
            settling,
        ]

    def _callbacks(self, run: Run, own_callbacks: list[Any]) -> list[Any]:
        assert self._lent is not None
        # What the module logs at an epoch's end it may log in a hook, which Lightning calls after most callbacks.
        has_hook = type(
            self._module
        ).on_train_epoch_end is not pl.LightningModule.on_train_epoch_end or "on_train_epoch_end" in vars(self._module)
        leading, settling = self._first_and_last(
            run, partial(self._training_started, run), on_epoch_told=self._lent.tell_all
        )
        resumed = self._resumed
        first = [leading, AtFitStart(self._note_made), AtFitStart(self._optimizers_made)]
        if resumed is not None:
            first.append(AtFitStart(resumed.before_hooks))
        last: list[Any] = [settling]
        if resumed is not None:
            last = [
                AtFitStart(lambda: resumed.after_hooks(self._optimizers(), self._script)),
                AtTrainStart(resumed.accumulate_on),
                settling,
            ]
        between = [
            *own_callbacks,
            (LateEpochMetrics if has_hook else EpochMetrics)(run, self._latest),
            *as_native_callbacks(run.listeners[:-1], self._latest, LateBridge if has_hook else Bridge),
        ]
        return [*in_parts([*first, *between], is_ours), LastParts(last)]

    def _first_and_last(
        self, run: Run, on_started: Callable[[], None], on_epoch_told: Callable[[], None]
    ) -> tuple[Leading, Settling]:
        self._settling = Settling(run.listeners[-1:], self._latest, on_epoch_told)
        self._leading = Leading(
            run,
            self._latest,
            self._settling,
            self._module,
            is_exhausted=lambda: self._data is not None and self._data.draws.is_exhausted,
            moments=Moments(on_started, partial(validation_logs, run), self._epoch_starts, self._epoch_ends),
            keeps=run.listeners[-1].is_asked_for,  # else nobody takes a state, also not after an error
        )
        return self._leading, self._settling

    def _note_made(self) -> None:
        self._makeup.note()
        self._metrics.note()

    def _optimizers_made(self) -> None:
        """Nobody has heard of the start of ``fit``: the optimizers are as `configure_optimizers` has made them."""
        goes_on = self._resumed is not None and self._resumed.takes_script_settings
        schedulers = [config.scheduler for config in self._trainer.lr_scheduler_configs] if goes_on else []
        self._script = ScriptSettings(self._optimizers(), schedulers)

    def _goes_on(self) -> bool:
        """Before each batch is asked for, when Lightning is done with the one before."""
        assert self._settling is not None
        self._settling.settle()
        self._before_validation.forget()
        if self._is_stopped:
            self._cut_short()
        return not self._is_stopped

    def _cut_short(self) -> None:
        """A stop ends an epoch before its last batch: a resumed run goes on from here, and tells its end then.

        Neither the module nor Lightning's own callbacks hear of it as of an epoch's end.
        """
        assert self._lent is not None
        self._at_cut = self._host_state()
        self._lent.cut_short()

    def _epoch_starts(self) -> None:
        if self._data is not None:
            self._data.draws.give_back_random()

    def _epoch_ends(self) -> None:
        if self._data is not None and not self._latest.is_cut_short:
            self._data.draws.end_epoch()
        if self._is_stopped and not self._is_attached:
            trainer: Any = self._trainer
            trainer.should_stop = True

    def stop(self) -> None:
        """End training after this batch, or this epoch's end.

        Lightning isn't told before the epoch ends: else it would validate now, which a run that isn't stopped doesn't.
        In a ``fit`` that somebody else calls it is, as by any callback.
        """
        self._is_stopped = True
        if self._is_attached:
            self._trainer.should_stop = True

    def _training_started(self, run: Run) -> None:
        reason = no_checkpoints(self._trainer, self._trainer.optimizers)
        if reason is not None and run.listeners[-1].is_asked_for:
            raise ConfigurationError(f"CheckpointManager can't make a checkpoint of this run: {reason}")
        show_metrics(self._trainer, run.logs, shows_own_only=True)
        if self._data is not None:
            self._data.warn_if_shorter()
        if not self._trainer.enable_validation:
            run.on_names_known(VALIDATION, [])
        if self._resumed is not None:
            assert self._data is not None
            self._resumed.training_started(run.first_batch, self._data, self._before_validation)

    def _start_hooks_called(self, strategy: Any) -> None:
        """Callbacks and the module have heard that training starts; the strategy is the last."""
        type(strategy).on_train_start(strategy)
        if self._resumed is None:
            self._makeup.note_trained()
        else:
            self._resumed.after_start(self._optimizers(), self._script)

    def evaluate(self, batch: Any, evaluate_settings: Any) -> StepOutput:
        """What `validation_step` returns for one batch; what it logs isn't."""
        return evaluated(self._trainer, self._module, None if self._data is None else self._data.datamodule, batch)

    def model_state(self) -> dict[str, dict[str, Any]]:
        """The module's state dict; where a callback of Lightning's averages weights, the averages."""
        trainer: Any = self._trainer
        averages = averages_in(trainer.callbacks)
        return {"model": component_state(self._module if averages is None else averages)}

    def state(self) -> dict[str, Any]:
        """Weights, optimizers, and what Lightning and the module have counted."""
        return self._trained.taken(self._module, self._state)

    def _state(self) -> dict[str, Any]:
        assert self._leading is not None
        check_is_whole(not self._leading.undo_step(self._trainer.global_step))
        trainer: Any = self._trainer
        self._has_warned = self._has_warned or warn_if_not_resumable(trainer.callbacks)
        return {
            "model": {"model": component_state(self._module)},
            "optimizers": {
                name: self._script.added_to(optimizer_state(optimizer), name)
                for name, optimizer in self._optimizers().items()
            },
            "gradients": gradients_state(trainer, self._module),
            "lightning": self._at_cut or self._host_state(),
            KEY: self._makeup.state(),
        }

    def _host_state(self) -> dict[str, Any]:
        assert self._settling is not None
        is_settled, before = self._settling.is_settled, self._before_validation
        if not is_settled:
            before.undo()
        state = host_state(self._trainer, self._module, self._metrics, self._first_epoch, is_settled)
        if is_settled:
            return {**state, "before_validation": None}
        state["loops"].update(left_to_do(self._trainer, self._latest.stepped_before))
        return {**state, "before_validation": before.state(), **before.host_state}

    def load_state(self, state: dict[str, Any], optimizer_settings: str) -> None:
        """Keep it until Lightning has made what it belongs to."""
        check_names("model components", ["model"], state["model"])
        if "results" not in state["lightning"]:
            raise CheckpointMismatchError(
                "The checkpoint is of a DefaultTrainer with a training model, not of one made by from_lightning: load "
                "the weights alone, by mlp.load_model_checkpoint(path)."
            )
        self._resumed = Resumed(self._trainer, self._module, state, optimizer_settings, self._makeup)

    def holders(self) -> Iterator[Holder]:
        """The module and what is in it, the data, Lightning's callbacks, and optimizers."""
        yield from holders_of_run(self._trainer, self._module)
        yield from holders_of_optimizers(self._optimizers())

    def learning_rates(self) -> dict[str, float]:
        """That of each optimizer's first parameter group; none before training starts."""
        groups = {name: optimizer.param_groups[0] for name, optimizer in self._optimizers().items()}
        return {name: float(group["lr"]) for name, group in groups.items() if "lr" in group}

    def set_learning_rate(self, optimizer_name: str, value: float) -> None:
        """That of each parameter group, where the module has no schedule for it."""
        optimizer = self._optimizers()[optimizer_name]
        if any(config.scheduler.optimizer is optimizer for config in self._trainer.lr_scheduler_configs):
            raise ConfigurationError(
                f"The optimizer {optimizer_name!r} has a schedule of its own, from configure_optimizers: leave one out."
            )
        for group in optimizer.param_groups:
            group["lr"] = value

    def is_native_callback(self, candidate: object) -> bool:
        """Whether it is a callback of the Lightning that is used here."""
        check_is_ours(candidate)
        if not isinstance(candidate, pl.Callback):
            return False
        check_counting(candidate, may_accumulate=not self._makes_batches_of_parts)
        return True

    def native_metrics(self, callbacks: Sequence[Any]) -> None:
        """The module may log anything."""

    def _optimizers(self) -> dict[str, torch.optim.Optimizer]:
        # Where configure_optimizers returns None, Lightning works with one of nothing.
        optimizers = [optimizer for optimizer in self._trainer.optimizers if optimizer.param_groups]
        return {"optimizer": optimizers[0]} if len(optimizers) == 1 else _numbered(optimizers)


def _numbered(optimizers: list[torch.optim.Optimizer]) -> dict[str, torch.optim.Optimizer]:
    return {f"optimizer_{number}": optimizer for number, optimizer in enumerate(optimizers)}
