"""Finds losses and gradients that are NaN or infinite."""

from __future__ import annotations

import cmath
import math
from collections.abc import Iterable

import torch

from mlpug_lightning.accumulation import gradients_of, parameters_of


def are_finite(loss: torch.Tensor, optimizers: Iterable[torch.optim.Optimizer]) -> bool:
    """Whether the loss, or all of several, and all gradients are: exactly, and while they are by one transfer.

    A sum is finite only where all that is summed is, and one pass over the gradients makes it. Where it isn't, it may
    have overflowed, so that each gradient is looked at.

    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> weight.grad = torch.tensor([3e38, 3e38])
    >>> are_finite(torch.tensor(0.5), [torch.optim.SGD([weight])])
    True
    """
    loss = loss.detach()
    parameters = (parameter for optimizer in optimizers for parameter in parameters_of(optimizer))
    gradients = [_values(gradient) for gradient in gradients_of(parameters)]
    if (are_sums_finite if loss.device.type == "cpu" else are_norms_finite)(loss, gradients):
        return True
    return all(bool(torch.isfinite(tensor).all()) for tensor in (loss, *gradients))


def are_sums_finite(loss: torch.Tensor, gradients: list[torch.Tensor]) -> bool:
    """Whether the sum of each is: on the host, where reading a number is no transfer."""
    return all(cmath.isfinite(tensor.sum().item()) for tensor in (loss, *gradients))


def are_norms_finite(loss: torch.Tensor, gradients: list[torch.Tensor]) -> bool:
    """Whether the sum of all norms is: by few kernels and one transfer, where plain sums would be one for each."""
    device = loss.device
    norms = torch._foreach_norm(gradients) if gradients else ()
    on_device = [norm if norm.device == device else norm.to(device) for norm in norms]
    return math.isfinite(torch.stack([loss.abs().sum(), *on_device]).sum().item())


def _values(gradient: torch.Tensor) -> torch.Tensor:
    """What of it is stored in this process."""
    if type(gradient) is not torch.Tensor and hasattr(gradient, "to_local"):  # a DTensor
        gradient = gradient.to_local()
    if gradient.is_sparse:
        return gradient.coalesce().values()
    return gradient
