"""The gradient of a batch from those of its chunks, and what is done to it before the weights change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from mlpug.adapter import Clipping, StepOutput
from mlpug.step_output import check_losses, joined_outputs
from mlpug_lightning.batches import detached


class BatchGradient:
    """Leaves the gradient of a batch where the optimizers look for it.

    Args:
        forward: what the training model gives for a chunk, with these evaluate settings.
        backward: as `torch.autograd.backward`.
        optimizers: by name.
        trainer: Lightning's.
        weighs: whether batches are computed in parts.
    """

    def __init__(
        self,
        forward: Callable[[Any, Any], StepOutput],
        backward: Callable[..., None],
        optimizers: Mapping[str, torch.optim.Optimizer],
        trainer: Any,
        weighs: bool,
    ) -> None:
        self._forward = forward
        self._backward = backward
        self._optimizers = optimizers
        self._strategy = trainer.strategy
        self._num_processes = trainer.world_size
        self._mean = mean_over_processes(trainer.strategy, trainer.world_size)
        self._weighs = weighs or trainer.world_size > 1

    def of(self, chunks: list[Any], settings: Any) -> tuple[StepOutput, bool]:
        """What the model gives for the batch, and whether it has a gradient: not so where nothing in it counts."""
        if not self._weighs:
            output = self._forward(chunks[0], settings)
            self._add(output.loss, 1.0)
            return _without_graph(output), True
        shares = Shares(self._mean)
        last = len(chunks) - 1
        outputs = [self._add_chunk(chunk, settings, shares, number == last) for number, chunk in enumerate(chunks)]
        if self._num_processes == 1 and shares.is_empty:
            return joined_outputs(outputs, torch.cat, weighted_mean), False
        if isinstance(outputs[0].loss, Mapping) and self._num_processes > 1:
            self._average_over_processes()
        divide(gradients_of(self._parameters), shares.total())
        return joined_outputs(outputs, torch.cat, weighted_mean), True

    def _add_chunk(self, chunk: Any, settings: Any, shares: Shares, is_last: bool) -> StepOutput:
        output = self._forward(chunk, settings)
        weight = shares.weigh(output.num_samples)
        synchronises = is_last and self._num_processes > 1 and not isinstance(output.loss, Mapping)
        with nullcontext() if synchronises else self._without_synchronising():
            if not is_number(weight, 0.0):
                self._add(output.loss, weight)
            elif synchronises:  # the others wait for this process's gradients, which add nothing
                self._backward(zero_loss(self._parameters))
        return _without_graph(output)

    def _add(self, loss: Any, weight: Any) -> None:
        """Add the gradient of a loss; where there is one for each optimizer, to its own weights only."""
        if not isinstance(loss, Mapping):
            self._backward(loss if is_number(weight, 1.0) else loss * weight)
            return
        check_losses(loss, self._optimizers)
        *others, last = self._optimizers
        for name in (*others, last):
            own = [parameter for parameter in parameters_of(self._optimizers[name]) if parameter.requires_grad]
            self._backward(loss[name] * weight, inputs=own, retain_graph=name != last)

    @property
    def _parameters(self) -> list[torch.Tensor]:
        return [parameter for optimizer in self._optimizers.values() for parameter in parameters_of(optimizer)]

    def _average_over_processes(self) -> None:
        """What a strategy does in a backward pass, which it takes to be the only one of a batch."""
        for parameter in self._parameters:
            if parameter.requires_grad:
                if parameter.grad is None:  # here, and perhaps not in another process
                    parameter.grad = torch.zeros_like(parameter)
                torch.distributed.all_reduce(parameter.grad)
                parameter.grad /= self._num_processes

    def _without_synchronising(self) -> AbstractContextManager[Any]:
        blocked: Callable[[], AbstractContextManager[Any]] = getattr(self._strategy, "block_backward_sync", nullcontext)
        return blocked()


def mean_over_processes(strategy: Any, num_processes: int) -> Callable[[float], Any]:
    """The function that takes a number's mean over the processes of a strategy."""

    def mean(number: float) -> Any:
        if num_processes == 1:
            return number
        on_device = torch.tensor(number, dtype=torch.float64, device=strategy.root_device)
        return strategy.reduce(on_device, reduce_op="mean")

    return mean


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


def is_number(weight: Any, number: float) -> bool:
    """Whether it is, without a look at what may be on a device."""
    return isinstance(weight, float) and weight == number


def _without_graph(output: StepOutput) -> StepOutput:
    return StepOutput(detached(output.loss), output.num_samples, detached(output.auxiliary_results))


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


def parameters_of(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Those that it updates."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def gradients_of(parameters: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Those that there are, each once."""
    by_id = {id(parameter): parameter.grad for parameter in parameters}
    return [gradient for gradient in by_id.values() if gradient is not None]


def zero_loss(parameters: Iterable[torch.Tensor]) -> torch.Tensor:
    """A loss whose gradients are zero, of every parameter: of one that is NaN, zero times it wouldn't be.

    >>> weight = torch.ones(2, requires_grad=True)
    >>> zero_loss([weight]).backward()
    >>> weight.grad
    tensor([0., 0.])
    """
    return torch.stack([parameter.sum() for parameter in parameters if parameter.requires_grad]).sum() * 0.0


@torch.no_grad()
def divide(gradients: list[torch.Tensor], total: Any) -> None:
    """Each gradient by a number, in place."""
    if gradients and not is_number(total, 1.0):
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
