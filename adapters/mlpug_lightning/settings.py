"""What the script has set of torch's optimizers and schedulers when training starts."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mlpug.optimizer_settings import CONFIGURED, Settings, scalars, warn_of_other_settings

_NO_SETTINGS = ("params", "param_names", "initial_lr")  # the last is the rate once more, for a scheduler


class ScriptSettings:
    """The settings of optimizers as the script has made them, before a schedule or a checkpoint changes them.

    Args:
        optimizers: by name.
        schedulers: those that may have to go on from here, by `go_on`.
    """

    def __init__(self, optimizers: Mapping[str, torch.optim.Optimizer], schedulers: Sequence[Any] = ()) -> None:
        self.configured = {name: settings_of(optimizer) for name, optimizer in optimizers.items()}
        self._groups = {
            name: [_copied(group) for group in optimizer.param_groups] for name, optimizer in optimizers.items()
        }
        self._schedules = [copy.deepcopy(scheduler.state_dict()) for scheduler in schedulers]

    def added_to(self, state: dict[str, Any], name: str) -> dict[str, Any]:
        """The state of an optimizer, with what a later script is compared with."""
        return {**state, CONFIGURED: self.configured[name]} if name in self.configured else state

    def put_back(self, optimizers: Mapping[str, torch.optim.Optimizer]) -> None:
        """Give the optimizers these settings, and leave them their moments."""
        for name, optimizer in optimizers.items():
            # A group that a callback has added since has what the callback or the checkpoint gave it.
            for group, own in zip(optimizer.param_groups, self._groups[name], strict=False):
                for key in set(group) - {"params"}:
                    del group[key]
                group.update(_copied(own))

    def go_on(self, schedulers: Sequence[Any], states: Sequence[Mapping[str, Any]]) -> None:
        """Move the script's own schedulers on by as many steps as those of the checkpoint had made.

        Stepping, because most of torch's have no other way to say what their rate is after so many steps. One that goes
        by a metric can't be moved on: it remembers what it has seen, and goes on from the script's rate.
        """
        for scheduler, own, state in zip(schedulers, self._schedules, states, strict=True):
            if goes_by_steps(scheduler) and "last_epoch" in state and "last_epoch" in own:
                scheduler.load_state_dict(copy.deepcopy(own))
                move_on(scheduler, state["last_epoch"] - own["last_epoch"])
            else:
                scheduler.load_state_dict(state)

    def tell(self, optimizers: Mapping[str, torch.optim.Optimizer], states: Mapping[str, Any], source: str) -> None:
        """Name what differs from the script that wrote these states of the optimizers, once they have theirs."""
        used = {name: settings_of(optimizer) for name, optimizer in optimizers.items()}
        warn_of_other_settings(states, self.configured, used, source)


def settings_of(optimizer: torch.optim.Optimizer) -> Settings:
    """Its numbers and choices by name; where there are several parameter groups, those of each.

    >>> settings_of(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1))["lr"]
    0.1
    """
    groups = [scalars(group, leave_out=_NO_SETTINGS) for group in optimizer.param_groups]
    if len(groups) == 1:
        return groups[0]
    return {f"{key} of parameter group {n}": value for n, group in enumerate(groups) for key, value in group.items()}


def goes_by_steps(scheduler: Any) -> bool:
    """Whether how often it was stepped says all about a scheduler."""
    return not isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)


def move_on(scheduler: Any, num_steps: int) -> None:
    """Step a scheduler, without updates of its optimizer between: those were in the run that is resumed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
        for _ in range(num_steps):
            scheduler.step()


def _copied(group: Mapping[str, Any]) -> dict[str, Any]:
    """Without parameters; a rate that is a tensor is changed in place, other settings never are."""
    return {
        key: value.clone() if isinstance(value, torch.Tensor) else value
        for key, value in group.items()
        if key != "params"
    }
