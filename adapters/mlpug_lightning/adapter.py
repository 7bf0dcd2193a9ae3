"""mlpug's adapter for PyTorch Lightning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from mlpug.adapter import Process, Run, StepOutput
from mlpug.errors import ConfigurationError
from mlpug.step_output import as_step_output
from mlpug.stop_iteration import unwrapped
from mlpug.validation import known_length
from mlpug_lightning.batches import as_data_loader, to_device, to_host
from mlpug_lightning.bridge import as_native_callbacks
from mlpug_lightning.host import check_is_ours, pl, quiet
from mlpug_lightning.module import TrainingModule, checked_training_model


class LightningAdapter:
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
        self._trainer = trainer
        self._optimizers = dict(optimizers)
        self._model_components = dict(model_components)
        self._compile_model = compile_model
        self._training_model: torch.nn.Module | None = None
        self._call: Callable[..., Any] | None = None

    @property
    def process(self) -> Process:
        """This process among those of Lightning's strategy."""
        return Process(rank=self._trainer.global_rank, world_size=self._trainer.world_size)

    def set_training_model(self, training_model: Any) -> None:
        """Take a `torch.nn.Module`."""
        self._training_model = checked_training_model(training_model)
        self._call = training_model if self._compile_model is None else self._compile_model(training_model)

    def fit(self, run: Run) -> None:
        """Let Lightning train."""
        assert self._training_model is not None
        assert self._call is not None
        trainer: Any = self._trainer  # Lightning sets its `callbacks` where no type checker sees it
        module = TrainingModule(
            training_model=self._training_model,
            call_training_model=self._call,
            optimizers=list(self._optimizers.values()),
            model_components=self._model_components,
            evaluate_settings=run.evaluate_settings,
        )
        own_callbacks, own_limit = trainer.callbacks, trainer.limit_train_batches
        trainer.callbacks = [*own_callbacks, *as_native_callbacks(run.listeners)]
        # Also a trainer that has trained before trains this many more.
        trainer.fit_loop.max_epochs = trainer.current_epoch + run.num_epochs
        if run.num_batches_per_epoch != known_length(run.dataset):
            trainer.limit_train_batches = run.num_batches_per_epoch or own_limit
        try:
            with quiet(), unwrapped():
                trainer.fit(module, train_dataloaders=as_data_loader(run.dataset))
        except SystemExit as error:
            if isinstance(error.__context__, KeyboardInterrupt):  # Lightning exits on Ctrl-C; that isn't ours to do
                raise error.__context__ from None
            raise
        finally:
            trainer.callbacks, trainer.limit_train_batches = own_callbacks, own_limit

    def stop(self) -> None:
        """End training after this batch, or this epoch's end."""
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

    def to_host(self, tree: Any) -> Any:
        """Tensors as numpy arrays and numbers."""
        return to_host(tree)

    def learning_rates(self) -> dict[str, float]:
        """That of each optimizer's first parameter group."""
        return {name: float(optimizer.param_groups[0]["lr"]) for name, optimizer in self._optimizers.items()}

    def is_native_callback(self, candidate: object) -> bool:
        """Whether it is a callback of the Lightning that is used here."""
        check_is_ours(candidate)
        return isinstance(candidate, pl.Callback)


def _check_optimizer(name: str, optimizer: Any) -> None:
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ConfigurationError(f"The optimizer {name!r} must be a torch.optim.Optimizer, not {optimizer!r}.")
    if not any(group["params"] for group in optimizer.param_groups):
        raise ConfigurationError(f"The optimizer {name!r} has no parameters: give it model.parameters().")


def _device_of(model: torch.nn.Module) -> torch.device:
    for parameter in model.parameters():
        return parameter.device
    return torch.device("cpu")
