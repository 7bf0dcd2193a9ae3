"""A run of a LightningModule that goes on: what is given back, and at which moments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mlpug.optimizer_settings import SCRIPT
from mlpug_lightning.components import load_component_state
from mlpug_lightning.host import pl
from mlpug_lightning.makeup import KEY, Makeup
from mlpug_lightning.native_callbacks import check_resumable
from mlpug_lightning.ported_data import LightningData
from mlpug_lightning.ported_gradients import check_same_accumulation, load_gradients
from mlpug_lightning.ported_state import (
    load_after_hooks,
    load_before_hooks,
    load_schedules,
    load_when_started,
    start_counting,
)
from mlpug_lightning.ported_validation import BeforeValidation
from mlpug_lightning.settings import ScriptSettings


class Resumed:
    """The state of a run, until Lightning has made what it belongs to.

    Args:
        trainer: Lightning's.
        module: the user's.
        state: what the adapter's `state` gave.
        optimizer_settings: whose.
        makeup: of the module and its optimizers.
    """

    def __init__(
        self,
        trainer: pl.Trainer,
        module: pl.LightningModule,
        state: Mapping[str, Any],
        optimizer_settings: str,
        makeup: Makeup,
    ) -> None:
        self._trainer = trainer
        self._module = module
        self._state = state
        self._makeup = makeup
        self._host: Mapping[str, Any] = state["lightning"]
        self._is_within_an_epoch = False
        self._optimizer_settings = optimizer_settings

    @property
    def first_epoch(self) -> int:
        """Of mlpug's training, as Lightning counts."""
        epoch: int = self._host["loops"]["first_epoch"]
        return epoch

    @property
    def takes_script_settings(self) -> bool:
        """Whether optimizers go on with the settings of this script, and not with those of the checkpoint."""
        return self._optimizer_settings == SCRIPT

    def start_counting(self, num_epochs: int, num_batches: int, data: LightningData) -> None:
        """Before ``fit``: so many epochs are done, and so many batches of the next."""
        trainer: Any = self._trainer
        trainer.num_sanity_val_steps = 0  # before training, and this isn't its beginning
        start_counting(trainer, self._host, num_epochs, num_batches)
        self._is_within_an_epoch = num_batches > 0
        # Else Lightning makes the iterators when the epoch begins.
        trainer.fit_loop._resuming_from_checkpoint = data.goes_on_within_an_epoch

    def load_weights(self) -> None:
        """Those of the module."""
        self._makeup.make_model_again(self._state)
        load_component_state(self._module, self._state["model"]["model"], "model", same_dtypes=True)
        self._makeup.give_back_pruned(self._state)

    def before_hooks(self) -> None:
        """Before anybody hears that ``fit`` starts."""
        trainer: Any = self._trainer
        check_resumable(trainer.callbacks)
        self.load_weights()
        load_before_hooks(self._trainer, self._module, self._state)

    def after_hooks(self, optimizers: Mapping[str, torch.optim.Optimizer], script: ScriptSettings) -> None:
        """When everybody has heard of it: the optimizers are those that will train."""
        self._makeup.check_early(self._state)
        self._makeup.load_early(self._state)
        self._set_as_told(optimizers, script)

    def after_start(self, optimizers: Mapping[str, torch.optim.Optimizer], script: ScriptSettings) -> None:
        """When every hook at the start of training was called, the module's own last: give it all back once more."""
        self.load_weights()
        load_after_hooks(self._trainer, self._module, self._state)
        self._makeup.note_trained()
        self._makeup.load_optimizers(self._state)
        self._makeup.give_back_trained(self._state)
        self._freeze_as_before()
        self._set_as_told(optimizers, script)
        if self._trainer.global_rank == 0:
            script.tell(optimizers, self._state["optimizers"], self._optimizer_settings)
        load_gradients(self._module, self._state["gradients"])

    def _set_as_told(self, optimizers: Mapping[str, torch.optim.Optimizer], script: ScriptSettings) -> None:
        """Once optimizers have their states: their settings, and schedules."""
        if self.takes_script_settings:
            script.put_back(optimizers)
        load_schedules(self._trainer, self._host, script if self.takes_script_settings else None)

    def _freeze_as_before(self) -> None:
        """A file of mlpug 0.1 has all that were frozen, and not what the run had changed."""
        if KEY not in self._state:
            frozen = set(self._host["frozen"])
            for name, parameter in self._module.named_parameters():
                parameter.requires_grad_(name not in frozen)

    def accumulate_on(self) -> None:
        """When a callback that says how many batches make an update has checked that nobody else does."""
        if self._is_within_an_epoch:
            counts, trainer = self._host["loops"]["accumulate_grad_batches"], self._trainer
            callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]  # set where no checker sees it
            if any(isinstance(each, pl.callbacks.GradientAccumulationScheduler) for each in callbacks):
                trainer.accumulate_grad_batches = counts  # it was set when the epoch began
            check_same_accumulation(trainer, counts)

    def training_started(self, num_batches: int, data: LightningData, before_validation: BeforeValidation) -> None:
        """Where in its loops Lightning is, and what was logged."""
        loops = self._host["loops"]
        load_when_started(self._trainer, self._module, self._host, num_batches)
        if data.draws.requested_in is not None:
            trainer: Any = self._trainer
            trainer.fit_loop._last_train_dl_reload_epoch = data.draws.requested_in
        if num_batches and loops["is_last_batch"]:
            data.draws.end_epoch()
        if num_batches and not loops["is_settled"]:
            before_validation.load(self._host["before_validation"])
