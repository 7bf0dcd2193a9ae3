"""What model and optimizers are made of, as far as a run changes it while it trains.

What the script makes before training starts isn't kept: a resumed script makes it again, as it is written now.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from mlpug.errors import CheckpointMismatchError
from mlpug.model_checkpoint import check_names, listed
from mlpug_lightning.components import uncompiled
from mlpug_lightning.made_while_running import MadeWhileRunning, Roots, give_back_pruned, make_again
from mlpug_lightning.parameter_groups import ParameterGroups, make_groups_again
from mlpug_lightning.state import check_optimizers, load_optimizer_state

BESIDES = ""  # the root of the training model, beside the components
KEY = "made_while_running"  # in the state of a run; mlpug 0.1 had none


class Makeup:
    """Notes what there is when training starts, and knows what is different since then.

    Args:
        roots: gives the modules of the run, by name.
        optimizers: gives its optimizers.
    """

    def __init__(
        self, roots: Callable[[], Roots], optimizers: Callable[[], Mapping[str, torch.optim.Optimizer]]
    ) -> None:
        self._roots = roots
        self._optimizers = optimizers
        self._made: MadeWhileRunning | None = None
        self._groups: ParameterGroups | None = None
        self._trained: dict[str, bool] | None = None

    def note(self) -> None:
        """Before training starts, and before anything of a checkpoint is given back."""
        self._made, self._groups = MadeWhileRunning(self._roots()), ParameterGroups(self._optimizers())
        self._trained = None

    def note_trained(self) -> None:
        """When every hook at the start of training was called: which parameters are trained."""
        self._trained = {name: parameter.requires_grad for name, parameter in self._parameters().items()}

    def state(self) -> dict[str, Any]:
        """What has changed.

        Raises:
            StateError: something that a resumed run couldn't make again.
        """
        if self._made is None or self._groups is None:
            return {}
        parameters = self._parameters()
        before = self._trained
        trained = {name: each.requires_grad for name, each in parameters.items()}
        return {
            **self._made.changes(self._roots()),
            "groups": self._groups.changes(self._optimizers(), parameters),
            "trained": {name: now for name, now in trained.items() if before and _was(before, name) != now},
        }

    def make_model_again(self, state: Mapping[str, Any]) -> None:
        """Before the model takes its weights."""
        changes = state.get(KEY)
        if changes:
            arrays = {f"{root}/{path}": each for root, part in state["model"].items() for path, each in part.items()}
            arrays |= {f"{BESIDES}/{path}": each for path, each in state.get("training_model", {}).items()}
            make_again(self._roots(), changes, arrays)

    def give_back_pruned(self, state: Mapping[str, Any]) -> None:
        """After it has taken them."""
        if state.get(KEY):
            give_back_pruned(self._roots(), state[KEY])

    def load_early(self, state: Mapping[str, Any]) -> None:
        """Give the optimizers their states before training starts, but for those to which groups were added.

        A hook may add them again when training starts.
        """
        for name, optimizer in self._as_at_start(state).items():
            load_optimizer_state(optimizer, state["optimizers"][name], copies=True)

    def check_early(self, state: Mapping[str, Any]) -> None:
        """Refuse those of other optimizers."""
        check_names("optimizers", self._optimizers(), state["optimizers"])
        optimizers = self._as_at_start(state)
        check_optimizers(optimizers, {name: state["optimizers"][name] for name in optimizers})

    def _as_at_start(self, state: Mapping[str, Any]) -> dict[str, torch.optim.Optimizer]:
        grown = _groups_of(state)
        return {name: each for name, each in self._optimizers().items() if name not in grown}

    def load_optimizers(self, state: Mapping[str, Any]) -> None:
        """When every hook at the start of training was called."""
        parameters, optimizers = self._parameters(), self._optimizers()
        for name, groups in _groups_of(state).items():
            make_groups_again(optimizers[name], groups, parameters)
        check_optimizers(optimizers, state["optimizers"])
        for name, optimizer in optimizers.items():
            load_optimizer_state(optimizer, state["optimizers"][name])

    def give_back_trained(self, state: Mapping[str, Any]) -> None:
        """The same moment, after `note_trained`: which parameters are trained, where the run has changed it."""
        parameters, changes = self._parameters(), (state.get(KEY) or {}).get("trained", {})
        missing = [name for name in changes if name not in parameters]
        if missing:
            raise CheckpointMismatchError(
                f"The checkpoint says whether {listed(missing)} are trained, which the model hasn't: make the model as "
                "it was when the checkpoint was written."
            )
        for name, is_trained in changes.items():
            parameters[name].requires_grad_(is_trained)

    def _parameters(self) -> dict[str, torch.nn.Parameter]:
        """By name; of one that has several, only the first."""
        names: dict[int, str] = {}
        parameters: dict[str, torch.nn.Parameter] = {}
        for root, module in self._roots().items():
            for path, parameter in uncompiled(module).named_parameters():
                if id(parameter) not in names:
                    names[id(parameter)] = f"{root}/{path}"
                    parameters[f"{root}/{path}"] = parameter
        return parameters


def _was(before: Mapping[str, bool], name: str) -> bool | None:
    """Pruning puts the same parameter under another name."""
    names = (name, name.removesuffix("_orig"), f"{name}_orig")
    return next((before[each] for each in names if each in before), None)


def _groups_of(state: Mapping[str, Any]) -> Mapping[str, Any]:
    groups: Mapping[str, Any] = (state.get(KEY) or {}).get("groups", {})
    return groups
