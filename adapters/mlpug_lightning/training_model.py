"""What Lightning can train by mlpug's own step."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from itertools import chain
from typing import Any

import torch

from mlpug.errors import ConfigurationError, MlpugWarning
from mlpug.model_checkpoint import shortened
from mlpug.validation import check_training_call, raise_not_callable


def checked_training_model(training_model: Any) -> torch.nn.Module:
    """The training model, if it is one that PyTorch can train, and that is called as mlpug calls it.

    Raises:
        ConfigurationError: it is something else; where it is a LightningModule, with the way to train that.
    """
    if not isinstance(training_model, torch.nn.Module):
        raise ConfigurationError(
            f"On PyTorch the training model must be a torch.nn.Module, not {training_model!r}. "
            "Its forward takes (batch_data, evaluate_settings, inference_mode) and returns the loss."
        )
    module: Any = getattr(training_model, "_orig_mod", training_model)  # what torch.compile was given
    if _has_a_call_of_its_own(module):
        return training_model
    kind = type(module)
    is_of_lightning = any(base.__name__ == "LightningModule" for base in kind.__mro__)
    instead = f"{kind.__name__} is a LightningModule: to train it by its own training_step, make the trainer by "
    instead = f"{instead}DefaultTrainer.from_lightning(module), and leave out set_training_model" * is_of_lightning
    if _has_no_forward(module):
        raise_not_callable(f"{kind.__name__} has no forward", f"{kind.__name__}.forward", instead)
    check_training_call(module.forward, f"{kind.__name__}.forward", instead)
    return training_model


def check_numbers(training_model: torch.nn.Module) -> None:
    """Refuse parameters and buffers of torch's meta device.

    Raises:
        ConfigurationError: some have no numbers that could be trained.
    """
    named = chain(training_model.named_parameters(), training_model.named_buffers())
    empty = [name for name, tensor in named if tensor.is_meta]
    if empty:
        raise ConfigurationError(
            f"{shortened(empty)} of {type(training_model).__name__} are on torch's meta device, without numbers: fill "
            "them by model.to_empty(device=...) and an initialization, or by load_state_dict, before training starts."
        )


def warn_of_untrained(training_model: torch.nn.Module, optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Warn of parameters that ask for gradients and that no optimizer has."""
    trained = {id(each) for optimizer in optimizers for group in optimizer.param_groups for each in group["params"]}
    untrained = [
        name
        for name, parameter in training_model.named_parameters()
        if parameter.requires_grad and id(parameter) not in trained
    ]
    if untrained:
        warnings.warn(
            f"No optimizer has {shortened(untrained)} of {type(training_model).__name__}, so that training leaves them "
            "as they are, unless they are added to one. Give them to an optimizer, as model.parameters() does, or "
            "freeze them by requires_grad_(False), which saves computing their gradients.",
            MlpugWarning,
            stacklevel=2,
        )


def _has_a_call_of_its_own(module: Any) -> bool:
    """Whether `forward` may get other arguments than the module is called with."""
    return (
        isinstance(module, torch.jit.ScriptModule)
        or type(module).__call__ is not torch.nn.Module.__call__
        or bool(getattr(module, "_forward_pre_hooks_with_kwargs", None))
    )


def _has_no_forward(module: Any) -> bool:
    """Whether it has only that of a base class, which says that there is none."""
    if "forward" in vars(module):
        return False
    owner = next(base for base in type(module).__mro__ if "forward" in vars(base))
    return owner is torch.nn.Module or owner.__name__ == "LightningModule"
