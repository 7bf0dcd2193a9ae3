"""Groups of parameters that an optimizer gets while a run trains."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from mlpug.errors import CheckpointMismatchError, StateError
from mlpug.model_checkpoint import listed

Names = list[list[str]]  # of the parameters in each group


class ParameterGroups:
    """Knows which groups optimizers had when training started."""

    def __init__(self, optimizers: Mapping[str, torch.optim.Optimizer]) -> None:
        self._at_start = {name: _ids(optimizer) for name, optimizer in optimizers.items()}

    def changes(
        self, optimizers: Mapping[str, torch.optim.Optimizer], parameters: Mapping[str, torch.nn.Parameter]
    ) -> dict[str, Names]:
        """The names in all groups of each optimizer that has others now.

        Raises:
            StateError: a parameter has no name.
        """
        names = {id(parameter): name for name, parameter in parameters.items()}
        return {
            name: _names(name, optimizer, names)
            for name, optimizer in optimizers.items()
            if _ids(optimizer) != self._at_start.get(name)
        }


def make_groups_again(
    optimizer: torch.optim.Optimizer, groups: Names, parameters: Mapping[str, torch.nn.Parameter]
) -> None:
    """Give an optimizer the groups that it had; what is set for each comes with its state."""
    missing = [name for group in groups for name in group if name not in parameters]
    if missing:
        raise CheckpointMismatchError(
            f"The checkpoint has parameter groups, added while training, of {listed(missing)}, which the model hasn't: "
            "make the model as it was when the checkpoint was written."
        )
    wanted = [[parameters[name] for name in group] for group in groups]
    for number, members in enumerate(wanted):
        there = optimizer.param_groups[number]["params"] if number < len(optimizer.param_groups) else []
        if [id(parameter) for parameter in there] != [id(parameter) for parameter in members]:
            del optimizer.param_groups[number:]
            optimizer.add_param_group({"params": members})
    del optimizer.param_groups[len(wanted) :]


def _ids(optimizer: torch.optim.Optimizer) -> list[list[int]]:
    return [[id(parameter) for parameter in group["params"]] for group in optimizer.param_groups]


def _names(optimizer_name: str, optimizer: torch.optim.Optimizer, names: Mapping[int, str]) -> Names:
    unknown = [
        tuple(parameter.shape)
        for group in optimizer.param_groups
        for parameter in group["params"]
        if id(parameter) not in names
    ]
    if unknown:
        raise StateError(
            f"The optimizer {optimizer_name!r} got other parameter groups while training, with parameters that are in "
            f"no module of the run, of shapes {unknown}: a resumed run couldn't find them. Make them parameters of "
            "the model, or give them to the optimizer before training starts."
        )
    return [[names[id(parameter)] for parameter in group["params"]] for group in optimizer.param_groups]
