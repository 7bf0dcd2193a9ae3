"""Knows whether the weights of a LightningModule have changed in a step that an error ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class KeptWeights:
    """Notes before a step what tells afterwards whether weights have changed; nothing is copied.

    Lightning counts an update when the module's `optimizer_step` has returned, and only those that it makes itself. So
    the optimizers are asked too: their weights change once the closure of a step, in which the gradients are computed
    and clipped, has returned. What changes weights without an optimizer, such as averages of them, counts as well.

    Args:
        trainer: Lightning's.
        module: the user's.
    """

    def __init__(self, trainer: Any, module: torch.nn.Module) -> None:
        self._trainer = trainer
        self._module = module
        self._watched: dict[int, tuple[Any, Any]] = {}  # optimizers and the handles of their hooks, by identity
        self._is_updating = False
        self._parameters: list[torch.nn.Parameter] | None = None
        self._versions: list[int] = []
        self._trained: list[bool] = []

    def forget_parameters(self) -> None:
        """An epoch begins, and the module may have others by now. To look for them takes longer than to ask them."""
        self._parameters = None

    def keep(self) -> None:
        """Before a step. A run may have other optimizers than in the step before."""
        self._is_updating = False
        for optimizer in self._trainer.optimizers:
            if id(optimizer) not in self._watched and hasattr(optimizer, "register_step_pre_hook"):
                self._watched[id(optimizer)] = optimizer, optimizer.register_step_pre_hook(self._step_begins)
        if self._parameters is None:
            self._parameters = [each for each in self._module.parameters() if _counts_changes(each)]
        self._versions = [each._version for each in self._parameters]
        self._trained = [each.requires_grad for each in self._parameters]

    @property
    def have_changed(self) -> bool:
        """Since `keep`."""
        return self._is_updating or [each._version for each in self._parameters or ()] != self._versions

    def put_back(self) -> None:
        """After an error in the step, in which `toggle_optimizer` may have left some frozen."""
        for parameter, is_trained in zip(self._parameters or (), self._trained, strict=True):
            parameter.requires_grad_(is_trained)

    def close(self) -> None:
        """The run has ended: its optimizers are left as they were. What was seen stays known."""
        for _, handle in self._watched.values():
            handle.remove()
        self._watched.clear()

    def _step_begins(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What torch calls before an optimizer's step, and takes the step's arguments from."""
        if kwargs.get("closure") is not None:
            return args, {**kwargs, "closure": self._noting(kwargs["closure"])}
        if len(args) > 1 and args[1] is not None:
            return (args[0], self._noting(args[1]), *args[2:]), kwargs
        self._is_updating = True
        return None

    def _noting(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        def noting_closure() -> Any:
            result = closure()
            self._is_updating = True
            return result

        return noting_closure


def _counts_changes(parameter: torch.nn.Parameter) -> bool:
    """Whether torch counts changes of it: not of what was made in inference mode, nor of what the first batch makes."""
    return not torch.nn.parameter.is_lazy(parameter) and not parameter.is_inference()
