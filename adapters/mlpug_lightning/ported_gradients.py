"""Gradients that a LightningModule's run has accumulated between two batches: a part of its state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mlpug.errors import CheckpointMismatchError, ConfigurationError
from mlpug_lightning.arrays import as_array, as_tensor


def accumulates(trainer: Any, module: Any) -> bool:
    """Whether gradients may be needed after the batch that computed them; in manual optimization nobody knows."""
    return not module.automatic_optimization or trainer.accumulate_grad_batches > 1


def gradients_state(trainer: Any, module: Any) -> dict[str, Any]:
    """Those that the next update adds to, by the parameter's name; none right after an update."""
    if not accumulates(trainer, module) or (module.automatic_optimization and _has_just_updated(trainer)):
        return {}
    found = {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}
    return {
        name: {"is_sparse": gradient.is_sparse, "values": as_array(gradient.to_dense())}
        for name, gradient in found.items()
    }


def load_gradients(module: Any, state: Mapping[str, Any]) -> None:
    """Give them back, when the parameters are on their device."""
    for name, parameter in module.named_parameters():
        if name in state:
            values = as_tensor(state[name]["values"]).to(parameter.device, parameter.dtype)
            parameter.grad = values.to_sparse() if state[name]["is_sparse"] else values


class KeptGradients:
    """A copy of the gradients as they were before a step, which an error in it may leave half done.

    Args:
        trainer: Lightning's.
        module: the user's.
    """

    def __init__(self, trainer: Any, module: Any) -> None:
        self._trainer = trainer
        self._module = module
        self._copies: list[tuple[Any, torch.Tensor | None]] = []

    def keep(self) -> None:
        """Copy them, where any may be needed again."""
        self._copies = []
        if accumulates(self._trainer, self._module):
            self._copies = [
                (parameter, None if parameter.grad is None else parameter.grad.clone())
                for parameter in self._module.parameters()
            ]

    def put_back(self) -> None:
        """After an error in the step."""
        for parameter, copy in self._copies:
            parameter.grad = copy


def check_accumulation(trainer: Any, keeps_states: bool) -> None:
    """Refuse a run whose training checkpoints would lack the gradients of other processes.

    Raises:
        ConfigurationError: several processes accumulate, each its own gradients.
    """
    if keeps_states and trainer.accumulate_grad_batches > 1 and trainer.world_size > 1:
        raise ConfigurationError(
            "With accumulate_grad_batches each process has gradients of its own between two updates, and a training "
            "checkpoint holds those of one. Give the trainer gradient_accumulation_steps=... in its place, or leave "
            "the CheckpointManager out."
        )


def check_same_accumulation(trainer: Any, saved: int) -> None:
    """Refuse to go on within an epoch with another number of batches to an update.

    Raises:
        CheckpointMismatchError: it is another one.
    """
    if trainer.accumulate_grad_batches != saved:
        raise CheckpointMismatchError(
            f"The training checkpoint was made within an epoch with accumulate_grad_batches={saved}, and it is "
            f"{trainer.accumulate_grad_batches} now: give the same; after a whole epoch it can change."
        )


def _has_just_updated(trainer: Any) -> bool:
    batches = trainer.fit_loop.epoch_loop.batch_progress
    done = batches.current.processed
    is_last = batches.is_last_batch or done == trainer.num_training_batches
    return bool(done % trainer.accumulate_grad_batches == 0 or (is_last and done == batches.current.ready))
