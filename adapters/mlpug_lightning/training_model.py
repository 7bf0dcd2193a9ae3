"""What Lightning can train by mlpug's own step."""

from __future__ import annotations

from typing import Any

import torch

from mlpug.errors import ConfigurationError
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
