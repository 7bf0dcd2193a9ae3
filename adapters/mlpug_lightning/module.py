"""The LightningModule that Lightning trains: the user's training model and its optimizers."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from mlpug.adapter import Run, StepOutput
from mlpug.chunks import Group
from mlpug.errors import DatasetError
from mlpug.joining import joined_batches
from mlpug.step_output import as_step_output
from mlpug.stop_iteration import EscapedStopIterationError
from mlpug_lightning.accumulation import BatchGradient, clip, gradients_of, parameters_of
from mlpug_lightning.batches import to_device
from mlpug_lightning.host import pl
from mlpug_lightning.kept_buffers import KeptBuffers
from mlpug_lightning.non_finite import are_finite
from mlpug_lightning.training_model import warn_of_untrained

_OPTIMIZATION_HOOKS = (
    "on_before_zero_grad",
    "on_before_backward",
    "on_after_backward",
    "on_before_optimizer_step",
)


@dataclass(slots=True)
class Latest:
    """What changes at each batch. It is kept off the module: setting an attribute of a module costs 2 µs each time."""

    chunks: list[Any] = field(default_factory=list)  # of the batch
    step_output: StepOutput | None = None  # what the training model gave; None between batches
    did_update: bool = False  # whether the weights moved
    is_updating: bool = False  # whether an optimizer is at work: an error then leaves weights that are half updated
    is_under_way: bool = False  # whether a step began that hasn't ended: an error then leaves buffers that it changed
    is_ending: bool = False  # whether a batch has ended, and not everybody has heard of it
    stepped_before: int = 0  # what Lightning had counted for its loggers when the batch ended, which it counts later
    is_cut_short: bool = False  # whether a stop ended the epoch before its last batch


class TrainingModule(pl.LightningModule):
    """One optimizer step for each batch.

    Optimization is manual in Lightning's words: we call backward and step. Where nobody listens to the optimization
    (one device, no loss scaling, no callback with a hook for it) they are called on the loss and the optimizer
    directly, without what goes on around them.

    Attributes:
        latest: what the latest step did.
        keep_buffers: whether `undo_step` is to work after an error in a step; to be set before training starts.
    """

    def __init__(
        self,
        training_model: torch.nn.Module,
        call_training_model: Callable[..., Any],
        optimizers: Mapping[str, torch.optim.Optimizer],
        model_components: Mapping[str, Any],
        run: Run,
        on_cut_short: Callable[[], None],
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.training_model = training_model
        modules = {name: part for name, part in model_components.items() if isinstance(part, torch.nn.Module)}
        self.model_components = torch.nn.ModuleDict(modules)
        self.latest = Latest()
        self._given_optimizers = list(optimizers.values())
        self._names = {id(optimizer): name for name, optimizer in optimizers.items()}
        self._call_training_model = _Unregistered(call_training_model)
        self._run = run
        self._on_cut_short = on_cut_short
        self._on_non_finite = run.on_non_finite
        self._norms: dict[str, torch.Tensor] = {}
        self._is_replicated = False
        self.keep_buffers = False
        self._kept_buffers: KeptBuffers | None = None
        self._update = self._update_directly
        self._gradient: BatchGradient | None = None

    def configure_optimizers(self) -> Any:
        """The user's own."""
        return self._given_optimizers

    def on_train_start(self) -> None:
        """Choose how to update, now that strategy, precision and callbacks are known."""
        if self.trainer.is_global_zero:  # not before callbacks have frozen what they train later
            warn_of_untrained(self.training_model, self._given_optimizers)
        backward: Callable[..., None] = torch.autograd.backward
        if not self._nobody_listens():
            self._update = self._update_through_lightning
            backward = self.manual_backward
        optimizers = {self._names[id(optimizer)]: optimizer for optimizer in self._given_optimizers}
        self._gradient = BatchGradient(
            self._forward, backward, optimizers, self.trainer, weighs=self._run.chunks_of is not None
        )
        if self.keep_buffers or self._on_non_finite is not None:
            self._kept_buffers = KeptBuffers(self)
        self._is_replicated = isinstance(self.trainer.strategy.model, DistributedDataParallel)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Any nesting of tensors and numpy arrays; several batches that make one are joined."""
        if batch is None:
            check_alone(self.trainer)
            return None
        given = self.trainer.precision_plugin.convert_input(to_device(batch, device))
        batch = joined_batches(given, torch.cat) if isinstance(given, Group) else given
        self.latest.chunks = [batch] if self._run.chunks_of is None else self._run.chunks_of(given)
        return batch

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        """Loss, gradients, update."""
        latest = self.latest
        if self._kept_buffers is not None:
            self._kept_buffers.keep()
        latest.is_under_way = True
        for optimizer in self._given_optimizers:
            optimizer.zero_grad()
        assert self._gradient is not None
        output, has_gradient = self._gradient.of(latest.chunks, self._run.evaluate_settings())
        latest.step_output = output
        latest.did_update = False
        if self._on_non_finite is not None and not self._is_finite(output.loss):
            self.undo_step()
            self._on_non_finite(output)
        elif has_gradient:
            latest.is_updating = True
            latest.did_update = self._update()
            latest.is_updating = False
            if self._norms:
                norms, self._norms = self._norms, {}
                norm = norms if len(self._given_optimizers) > 1 else next(iter(norms.values()))
                latest.step_output = replace(output, gradient_norm=norm)
        if self._is_replicated:
            self._share_buffers()
        latest.is_under_way = False
        if self.trainer.lr_scheduler_configs:
            self._step_schedulers()
        return {"loss": sum(output.loss.values()) if isinstance(output.loss, Mapping) else output.loss}

    def _share_buffers(self) -> None:
        """Give every process the buffers of the first one, such as the statistics of batch normalization.

        Where optimization is manual, the wrapper doesn't do so itself before the next forward pass. And this early, all
        processes evaluate the same model, which is that of a checkpoint.
        """
        wrapper: Any = self.trainer.strategy.model
        wrapper.require_forward_param_sync = True
        if wrapper.will_sync_module_buffers():
            wrapper._sync_buffers()

    def _step_schedulers(self) -> None:
        """Those that native callbacks added: with manual optimization Lightning leaves them to the module."""
        loop: Any = self.trainer.fit_loop.epoch_loop
        for config in self.trainer.lr_scheduler_configs:
            if config.interval == "step":
                count = loop.batch_idx + 1
            elif loop._num_ready_batches_reached():
                count = self.trainer.current_epoch + 1
            else:
                continue
            if count % config.frequency == 0:
                self.lr_scheduler_step(config.scheduler, None)

    def __deepcopy__(self, memo: dict[int, Any]) -> TrainingModule:
        """A copy of the weights, in which native callbacks average them: not of the run, its data and its callbacks."""
        training_model, components = copy.deepcopy((self.training_model, self.model_components), memo)
        return TrainingModule(training_model, training_model, {}, dict(components.items()), self._run, _do_nothing)

    def _forward(self, chunk: Any, settings: Any) -> StepOutput:
        try:
            returned = self._call_training_model.function(chunk, evaluate_settings=settings, inference_mode=False)
        except StopIteration as error:
            raise EscapedStopIterationError(error) from error
        return as_step_output(returned, chunk)

    def undo_step(self) -> None:
        """Give the buffers the values from before the step that is under way, if one is; the weights have theirs."""
        if self.latest.is_under_way and self._kept_buffers is not None:
            self._kept_buffers.put_back()
        self.latest.is_under_way = False

    def on_train_epoch_start(self) -> None:
        """Runs after the callbacks' hook: one of them may have asked to stop."""
        self._cut_short_if(self.trainer.should_stop)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Runs after the callbacks' hook: let go of what the batch gave, and note whether the epoch ends here."""
        self.latest.step_output = None
        self.latest.chunks = []
        self._cut_short_if(
            self.trainer.should_stop and not self.trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        )

    def _cut_short_if(self, is_cut_short: bool) -> None:
        self.latest.is_cut_short = is_cut_short
        if is_cut_short:
            self._on_cut_short()

    def _is_finite(self, loss: Any) -> bool:
        """The same for all processes, as the gradients are; the losses aren't."""
        # Infinite gradients are what a loss scaler works with: it leaves out such a step itself.
        optimizers = self._given_optimizers if self._scaler is None else ()
        if isinstance(loss, Mapping):
            loss = torch.stack(list(loss.values()))
        return bool(self.trainer.strategy.reduce_boolean_decision(are_finite(loss, optimizers)))

    @property
    def _scaler(self) -> Any:
        return getattr(self.trainer.precision_plugin, "scaler", None)

    def _update_directly(self) -> bool:
        for optimizer in self._given_optimizers:
            if self._run.clipping is not None:
                self.on_before_optimizer_step(optimizer)
            optimizer.step()
        # What Lightning's own wrapper of an optimizer does, so that global_step moves: native callbacks go by it.
        progress = self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress
        progress.increment_ready()
        progress.increment_completed()
        return True

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip: here the gradients of the whole batch are there, without the scale of a loss scaler."""
        if self._run.clipping is not None:
            gradients = gradients_of(parameters_of(optimizer))
            self._norms[self._names[id(optimizer)]] = clip(gradients, self._run.clipping)

    def _update_through_lightning(self) -> bool:
        optimizers: Any = self.optimizers()
        first, *others = optimizers if isinstance(optimizers, list) else [optimizers]
        for other in others:  # one update of the weights is one step of Lightning's global_step
            other._on_before_step = other._on_after_step = _do_nothing
        with _one_scale(self._scaler):
            for optimizer in (first, *others):
                optimizer.step()
            return any(_did_step(optimizer, self._scaler) for optimizer in self._given_optimizers)

    def _nobody_listens(self) -> bool:
        trainer: Any = self.trainer
        return (
            type(trainer.strategy) is pl.strategies.SingleDeviceStrategy
            and self._scaler is None
            and not any(
                getattr(type(callback), hook) is not getattr(pl.Callback, hook)
                for callback in trainer.callbacks
                for hook in _OPTIMIZATION_HOOKS
            )
        )


# Lightning inspects the signature at each batch, which takes three times as long where it isn't known beforehand.
TrainingModule.training_step.__signature__ = inspect.signature(TrainingModule.training_step)  # type: ignore[attr-defined]


@contextmanager
def _one_scale(scaler: Any) -> Iterator[None]:
    """Let a loss scaler change its scale once all optimizers are done.

    Lightning lets it after each one, and the gradients of the next would be divided by another scale than theirs.
    """
    if scaler is None:
        yield
        return
    scaler.update = _do_nothing
    try:
        yield
    finally:
        del scaler.update
    scaler.update()


def _did_step(optimizer: torch.optim.Optimizer, scaler: Any) -> bool:
    """A loss scaler leaves out the step of an optimizer with a gradient that isn't finite."""
    if scaler is None:
        return True
    return not any(found.item() for found in scaler._found_inf_per_device(optimizer).values())


def check_alone(trainer: Any) -> None:
    """Refuse a batch that is None beside other processes, which would wait for this one's gradients for ever."""
    if trainer.world_size > 1:
        raise DatasetError(
            f"The training dataset gave None for a batch in process {trainer.global_rank} of {trainer.world_size}, and "
            "the others wait for its gradients. Let the dataset give each process as many batches, and none that is "
            "None: draw other samples in collate_fn where all of a batch were dropped."
        )


def _do_nothing() -> None:
    pass


class _Unregistered:
    """Holds a compiled model without making it a submodule: its parameters are those of the one it was made from."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
