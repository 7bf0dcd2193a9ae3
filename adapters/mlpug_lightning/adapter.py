"""mlpug's adapter for PyTorch Lightning."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from mlpug.adapter import DataOptions, Holder, Run, StepOutput
from mlpug.errors import ConfigurationError
from mlpug.model_checkpoint import check_is_whole
from mlpug.optimizer_settings import SCRIPT
from mlpug.step_output import as_step_output
from mlpug.stop_iteration import unwrapped
from mlpug.validation import known_length
from mlpug_lightning.averaged_weights import averages_in
from mlpug_lightning.batches import Batches, WholeLoader, check_one_loader, to_device
from mlpug_lightning.bridge import First, LastBridge, Restoring, as_native_callbacks, is_ours, tell_start_and_end
from mlpug_lightning.components import component_state
from mlpug_lightning.holders import holders_of_callbacks, holders_of_modules, holders_of_optimizers
from mlpug_lightning.host import check_is_ours, pl, running
from mlpug_lightning.loggers import LoggerFeed
from mlpug_lightning.makeup import BESIDES, KEY, Makeup
from mlpug_lightning.module import TrainingModule
from mlpug_lightning.native_callbacks import (
    check_averaging,
    check_native,
    check_resumable,
    monitored_besides,
    warn_if_not_resumable,
)
from mlpug_lightning.on_lightning import OnLightning
from mlpug_lightning.settings import ScriptSettings
from mlpug_lightning.state import (
    load_model_state,
    load_native_state,
    loop_state,
    native_state,
    optimizer_state,
    remaining_state,
    start_loops_at,
)
from mlpug_lightning.training_model import check_numbers, checked_training_model


class Native(NamedTuple):
    """What Lightning works with: see ``DefaultTrainer.native``.

    Attributes:
        trainer: Lightning's.
        module: the LightningModule that it trains; None before training starts.
    """

    trainer: pl.Trainer
    module: pl.LightningModule | None


class LightningAdapter(OnLightning):
    """Trains with a Lightning `Trainer`.

    Args:
        trainer: runs the loop.
        optimizers: by name.
        model_components: by name.
        compile_model: what makes the training model faster before it is called, `torch.compile` with its arguments.
    """

    def __init__(
        self,
        trainer: pl.Trainer,
        optimizers: Mapping[str, torch.optim.Optimizer],
        model_components: Mapping[str, Any],
        compile_model: Callable[[torch.nn.Module], Callable[..., Any]] | None = None,
    ) -> None:
        for name, optimizer in optimizers.items():
            _check_optimizer(name, optimizer)
        super().__init__(trainer)
        self._optimizers = dict(optimizers)
        self._ratios = {name: _ratios_of(optimizer) for name, optimizer in optimizers.items()}
        self._model_components = dict(model_components)
        self._compile_model = compile_model
        self._training_model: torch.nn.Module | None = None
        self._call: Callable[..., Any] | None = None
        self._module: TrainingModule | None = None
        self._first_epoch = 0  # of mlpug's training, as Lightning counts
        self._resumed: dict[str, Any] | None = None  # the whole state, until training has started
        self._makeup = Makeup(self._parts, lambda: self._optimizers)
        self._is_stopped = False  # by `stop`, and not by one of Lightning's callbacks
        self._has_warned = False
        self._at_cut: dict[str, Any] | None = None  # the host's state where an epoch was cut short
        self._script = ScriptSettings({})
        self._takes_script_settings = False  # of a resumed run

    @property
    def native(self) -> Native:
        """What Lightning works with."""
        return Native(self._trainer, self._module)

    def _parts(self) -> dict[str, torch.nn.Module]:
        """All that has weights, by name."""
        parts = {name: part for name, part in self._model_components.items() if isinstance(part, torch.nn.Module)}
        return parts if self._training_model is None else {**parts, BESIDES: self._training_model}

    def set_training_model(self, training_model: Any) -> None:
        """Take a `torch.nn.Module`."""
        self._training_model = checked_training_model(training_model)
        self._call = training_model if self._compile_model is None else self._compile_model(training_model)

    def as_dataset(self, given: Any, options: DataOptions) -> Any:
        """Anything that can be iterated."""
        check_one_loader(given)
        return given

    def fit(self, run: Run) -> None:
        """Let Lightning train."""
        trainer: Any = self._trainer  # Lightning sets its `callbacks` where no type checker sees it
        self._module = module = self._new_module(run)
        check_numbers(module.training_model)
        self._is_stopped, self._at_cut = False, None
        check_averaging([*trainer.callbacks, *run.listeners], module)
        if self._resumed is None:
            self._makeup.note()
        else:
            check_resumable([*trainer.callbacks, *run.listeners])
        restoring = self._start_counting(run)
        own_callbacks, own_limit = trainer.callbacks, trainer.limit_train_batches

        def tell_all() -> None:
            trainer.callbacks = callbacks

        loggers = [LoggerFeed(trainer, run.logs)] if trainer.loggers else []
        listeners = as_native_callbacks([*run.listeners[:-1], *loggers], module.latest)
        last = LastBridge(
            run.listeners[-1:], module.latest, on_epoch_told=tell_all, on_started=self._start_hooks_called
        )
        callbacks = [First(run), *own_callbacks, *listeners, last, *restoring]
        tell_all()
        # Also a trainer that has trained before trains this many more.
        trainer.fit_loop.max_epochs = self._first_epoch + run.num_epochs
        if run.num_batches_per_epoch != known_length(run.dataset):
            trainer.limit_train_batches = run.num_batches_per_epoch or own_limit
        try:
            if run.first_epoch >= run.num_epochs:  # resumed at its end: Lightning would do nothing, and tell nobody
                tell_start_and_end(run.listeners, run.num_batches_per_epoch, restoring, self._start_hooks_called)
                return
            with unwrapped(), running(trainer), warnings.catch_warnings():
                warnings.filterwarnings("ignore", "train_dataloader yielded None")  # which is said here
                trainer.fit(module, train_dataloaders=WholeLoader(Batches(run.dataset, trainer), run.dataset))
        finally:
            trainer.callbacks, trainer.limit_train_batches = own_callbacks, own_limit
            self._resumed = None

    def _new_module(self, run: Run) -> TrainingModule:
        assert self._training_model is not None
        assert self._call is not None
        module = TrainingModule(
            training_model=self._training_model,
            call_training_model=self._call,
            optimizers=self._optimizers,
            model_components=self._model_components,
            run=run,
            on_cut_short=self._cut_short,
        )
        module.keep_buffers = True
        return module

    def _start_counting(self, run: Run) -> list[Restoring]:
        """Let Lightning count on from where it is, or from where the resumed run was: what restores its callbacks."""
        self._first_epoch = self._trainer.current_epoch
        if self._resumed is None:
            self._script = ScriptSettings(self._optimizers)
            return []
        state = self._resumed["lightning"]
        self._first_epoch = state["loops"]["first_epoch"]
        start_loops_at(self._trainer, state["loops"], run.first_epoch, run.first_batch)
        return [Restoring(partial(load_native_state, self._trainer, state))]

    def _start_hooks_called(self) -> None:
        """Every callback has heard that training starts, and may have begun anew: a resumed run goes on from here."""
        state, self._resumed = self._resumed, None
        if state is None:
            self._makeup.note_trained()
            return
        self._load_weights(state)
        load_native_state(self._trainer, state["lightning"], only_changed=True)
        self._makeup.note_trained()
        self._load_optimizers(self._makeup.load_optimizers, state)
        self._makeup.give_back_trained(state)

    def stop(self) -> None:
        """End training after this batch, or this epoch's end."""
        self._is_stopped = True
        self._trainer.should_stop = True

    def evaluate(self, batch: Any, evaluate_settings: Any) -> StepOutput:
        """Call the training model on one batch, where its weights are, with the precision of training."""
        model, call = self._training_model, self._call
        assert model is not None
        assert call is not None
        precision = self._trainer.precision_plugin
        batch = precision.convert_input(to_device(batch, _device_of(model)))
        # A part that the user holds in eval mode, a frozen BatchNorm say, must be in eval mode afterwards too.
        training_parts = [part for part in model.modules() if part.training]
        for part in training_parts:
            part.training = False
        try:
            # Not torch.inference_mode: what a model caches there, such as position tables, can't be trained with.
            with torch.no_grad(), precision.val_step_context():
                returned = call(batch, evaluate_settings=evaluate_settings, inference_mode=True)
        finally:
            for part in training_parts:
                part.training = True
        return as_step_output(returned, batch)

    def model_state(self) -> dict[str, dict[str, Any]]:
        """The state dict of each component; where a callback of Lightning's averages weights, the averages."""
        trainer: Any = self._trainer
        averages = averages_in(trainer.callbacks)
        return self._trained_state() if averages is None else _states(dict(averages.model_components.items()))

    def _trained_state(self) -> dict[str, dict[str, Any]]:
        return _states(self._model_components)

    def state(self) -> dict[str, Any]:
        """Weights, optimizers, and what Lightning and its callbacks have counted."""
        module = self._module
        assert module is not None
        check_is_whole(module.latest.is_updating)
        module.undo_step()
        trainer: Any = self._trainer
        self._has_warned = self._has_warned or warn_if_not_resumable(trainer.callbacks)
        return {
            "model": self._trained_state(),
            "training_model": remaining_state(module.training_model, self._model_components),
            "optimizers": {
                name: self._script.added_to(optimizer_state(optimizer), name)
                for name, optimizer in self._optimizers.items()
            },
            "lightning": self._at_cut or self._host_state(),
            KEY: self._makeup.state(),
        }

    def _host_state(self) -> dict[str, Any]:
        return {"loops": loop_state(self._trainer, self._first_epoch), **native_state(self._trainer)}

    def _cut_short(self) -> None:
        """A stop ends an epoch before its last batch: a resumed run will go on from here, and tell its end then.

        Lightning's own callbacks take it for the end of a whole epoch, and may miss the metrics of one. They hear of it
        only where it was one of them that stopped, as they would without mlpug.
        """
        self._at_cut = self._host_state()
        if self._is_stopped:
            trainer: Any = self._trainer
            trainer.callbacks = [callback for callback in trainer.callbacks if is_ours(callback)]

    def load_state(self, state: dict[str, Any], optimizer_settings: str) -> None:
        """Weights and optimizers at once, and again when training has started; Lightning and its callbacks then."""
        self._makeup.check_early(state)
        self._makeup.note()
        self._script = ScriptSettings(self._optimizers)
        self._takes_script_settings = optimizer_settings == SCRIPT
        self._load_weights(state)
        self._load_optimizers(self._makeup.load_early, state)
        if self.process.rank == 0:
            self._script.tell(self._optimizers, state["optimizers"], optimizer_settings)
        self._resumed = state

    def _load_weights(self, state: dict[str, Any]) -> None:
        assert self._training_model is not None
        self._makeup.make_model_again(state)
        load_model_state(self._training_model, self._model_components, state)
        self._makeup.give_back_pruned(state)

    def _load_optimizers(self, load: Callable[[Mapping[str, Any]], None], state: dict[str, Any]) -> None:
        load(state)
        if self._takes_script_settings:
            self._script.put_back(self._optimizers)

    def holders(self) -> Iterator[Holder]:
        """The training model, the components and what is in them; optimizers; Lightning's callbacks."""
        yield from holders_of_modules(self._training_model, *self._model_components.values())
        yield from holders_of_optimizers(self._optimizers)
        yield from holders_of_callbacks(self._trainer)

    def learning_rates(self) -> dict[str, float]:
        """That of each optimizer's first parameter group."""
        return {name: float(optimizer.param_groups[0]["lr"]) for name, optimizer in self._optimizers.items()}

    def set_learning_rate(self, optimizer_name: str, value: float) -> None:
        """That of each parameter group, in the ratios that they had when the trainer was made."""
        groups = self._optimizers[optimizer_name].param_groups
        for group, ratio in zip(groups, self._ratios[optimizer_name], strict=False):
            if isinstance(group["lr"], torch.Tensor):  # which a captured graph reads
                group["lr"].fill_(value * ratio)
            else:
                group["lr"] = value * ratio

    def is_native_callback(self, candidate: object) -> bool:
        """Whether it is a callback of the Lightning that is used here."""
        check_is_ours(candidate)
        if not isinstance(candidate, pl.Callback):
            return False
        check_native(candidate)
        return True

    def native_metrics(self, callbacks: Sequence[Any]) -> set[str] | None:
        """What Lightning's own callbacks add or log, those that the Lightning `Trainer` came with too."""
        trainer: Any = self._trainer
        return monitored_besides([*trainer.callbacks, *callbacks])


def _states(components: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {name: component_state(part) for name, part in components.items()}


def _check_optimizer(name: str, optimizer: Any) -> None:
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ConfigurationError(f"The optimizer {name!r} must be a torch.optim.Optimizer, not {optimizer!r}.")
    if not any(group["params"] for group in optimizer.param_groups):
        raise ConfigurationError(f"The optimizer {name!r} has no parameters: give it model.parameters().")
    # Of the class: a scheduler puts a function of its own in the place of the method.
    _, *arguments = inspect.signature(type(optimizer).step).parameters.values()
    needed = [
        parameter.name
        for parameter in arguments
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if needed:
        raise ConfigurationError(
            f"The optimizer {name!r} is a {type(optimizer).__name__}, whose step needs {needed[0]!r}: it computes the "
            "loss of a batch several times, and a DefaultTrainer computes it once. Train it by a LightningModule, with "
            "DefaultTrainer.from_lightning(module), or take another optimizer."
        )


def _ratios_of(optimizer: torch.optim.Optimizer) -> list[float]:
    """Of the learning rates of its parameter groups to that of the first."""
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    return [rate / rates[0] if rates[0] else 1.0 for rate in rates]


def _device_of(model: torch.nn.Module) -> torch.device:
    for parameter in model.parameters():
        return parameter.device
    return torch.device("cpu")
