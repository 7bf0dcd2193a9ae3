"""The gradient of a batch from those of its chunks, and what is done to it before the weights change."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from mlpug.adapter import Clipping


class Shares:
    """How much each chunk counts: sum(num_samples_i * gradient_i) / sum(num_samples_i), over all processes.

    Each num_samples is known only after its forward pass. So the gradients are weighed relative to the first chunk,
    which keeps them in the range of any float, and their sum is divided once. Of a strategy it is expected that it
    takes the mean over the processes; then what is relative to the same number everywhere stays exact.

    Args:
        mean_over_processes: of a number.

    >>> shares = Shares(lambda number: number)
    >>> [shares.weigh(num_samples) for num_samples in (4, 0, 2)], shares.total()
    ([1.0, 0.0, 0.5], 1.5)
    """

    def __init__(self, mean_over_processes: Callable[[float], Any]) -> None:
        self._mean = mean_over_processes
        self._reference: Any = None
        self._sum = 0.0

    def weigh(self, num_samples: Any) -> Any:
        """What the next chunk's loss is multiplied by; the number 0.0 where it counts nothing."""
        count = float(num_samples)
        self._sum += count
        if self._reference is None:
            self._reference = _or_one(self._mean(count))
        return count / self._reference if count else 0.0

    def total(self) -> Any:
        """What the sum of the gradients is divided by; 1 where nothing counts anything, and they are zero."""
        return _or_one(self._mean(self._sum) / self._reference)

    @property
    def is_empty(self) -> bool:
        """Whether nothing in this process counts anything."""
        return not self._sum


def _or_one(number: Any) -> Any:
    return number + (number == 0)  # without a look at it, which may be on a device


def weighted_mean(values: list[Any], weights: list[Any]) -> Any:
    """Of numbers and scalar tensors; what weighs nothing counts nothing.

    >>> weighted_mean([torch.tensor(1.0), torch.tensor(torch.nan), 3.0], [3, 0, torch.tensor(1)])
    tensor(1.5000)
    """
    counts = [float(weight) for weight in weights]
    total = sum(counts)
    if not total:
        return values[0] * torch.nan
    # By their shares, which sum to one: the sum of float16 losses that are multiplied by counts could overflow.
    shares = [(value, count / total) for value, count in zip(values, counts, strict=True) if count]
    mean = sum(value * share for value, share in shares)
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    return mean.to(tensors[0].device) if tensors and isinstance(mean, torch.Tensor) else mean


def gradients_of(parameters: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Those that there are, each once."""
    by_id = {id(parameter): parameter.grad for parameter in parameters}
    return [gradient for gradient in by_id.values() if gradient is not None]


@torch.no_grad()
def divide(gradients: list[torch.Tensor], total: Any) -> None:
    """Each gradient by a number, in place."""
    if gradients and not (isinstance(total, float) and total == 1.0):
        torch._foreach_div_(gradients, total)


@torch.no_grad()
def clip(gradients: list[torch.Tensor], clipping: Clipping) -> torch.Tensor:
    """Clip in place, and return the L2 norm from before, over all of the gradients; nothing leaves the device.

    Scaled by min(1, norm / L2 norm), which is what `torch.nn.utils.clip_grad_norm_` does but for a small number that
    it adds to the norm.

    >>> gradients = [torch.tensor([3.0]), torch.tensor([4.0])]
    >>> clip(gradients, Clipping(norm=1.0)), gradients
    (tensor(5.), [tensor([0.6000]), tensor([0.8000])])
    """
    norm = torch.nn.utils.get_total_norm(gradients)
    if clipping.norm is not None:
        torch._foreach_mul_(gradients, (clipping.norm / norm).clamp(max=1.0))
    if clipping.value is not None:
        torch._foreach_clamp_min_(gradients, -clipping.value)
        torch._foreach_clamp_max_(gradients, clipping.value)
    return norm
