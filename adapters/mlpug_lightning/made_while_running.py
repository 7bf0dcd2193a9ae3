"""Weights that a run makes, takes away or reshapes while it trains: made again before it goes on, or refused.

A resumed script makes its model as it is before training starts, so that what came later has to be made once more,
before the model takes its weights: pruning by `torch.nn.utils.prune`, and buffers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.nn.utils import prune

from mlpug.errors import StateError
from mlpug.model_checkpoint import listed
from mlpug_lightning.arrays import as_array, as_tensor
from mlpug_lightning.components import uncompiled

Roots = Mapping[str, torch.nn.Module]  # the parts of a model by name, and what is trained


class MadeWhileRunning:
    """Knows what a model had when training started.

    Args:
        roots: whose weights they are.
    """

    def __init__(self, roots: Roots) -> None:
        self._pruned = set(_pruned(roots))
        self._shapes = {path: _shape(tensor) for path, tensor in _tensors(roots).items()}

    def changes(self, roots: Roots) -> dict[str, Any]:
        """What is needed to make the rest again.

        Raises:
            StateError: nobody can.
        """
        pruned = _pruned(roots)
        tensors = _tensors(roots)
        usual = _without_pruning(tensors, pruned)
        before = _without_pruning(self._shapes, self._pruned)
        differing = [path for path in usual if path not in before or _differs(before[path], _shape(usual[path]))]
        parameters = [path for path in differing if isinstance(usual[path], torch.nn.Parameter)]
        parameters += [path for path in before if path not in usual]
        if parameters:
            raise StateError(
                f"A training checkpoint can't be resumed where the run has made, removed or reshaped weights while it "
                f"trained: {listed(parameters)}. Make them before training starts, as the resumed script will: "
                "parametrizations and layers when the model is made."
            )
        # The value that it had in the latest forward pass: the next pruning looks at it.
        values = {path: as_array(getattr(module, name)) for path, (module, name) in pruned.items()}
        return {
            "pruned": sorted(pruned.keys() - self._pruned),
            "made_permanent": sorted(self._pruned - pruned.keys()),
            "pruned_values": values,
            "buffers": differing,
        }


def make_again(roots: Roots, changes: Mapping[str, Any], arrays: Mapping[str, Any]) -> None:
    """Before the model takes its weights.

    Args:
        roots: of the run that goes on.
        changes: what `MadeWhileRunning.changes` gave.
        arrays: of the checkpoint, by the same paths; of one that is in two roots, one is enough.
    """
    pruned = _pruned(roots)
    for path in changes["pruned"]:
        module, name = _owner(roots, path)
        weight = module._parameters.get(name)
        if weight is not None:
            prune.custom_from_mask(module, name, torch.ones_like(weight))  # type: ignore[no-untyped-call]
    for path in changes["made_permanent"]:
        if path in pruned:
            prune.remove(*pruned[path])  # type: ignore[no-untyped-call]
    for path in changes["buffers"]:
        if path in arrays:
            module, name = _owner(roots, path)
            module.register_buffer(name, as_tensor(arrays[path]).to(_device_of(roots), copy=True))


def give_back_pruned(roots: Roots, changes: Mapping[str, Any]) -> None:
    """After the model has taken its weights: what they were when they were used last."""
    for path, (module, name) in _pruned(roots).items():
        if path in changes["pruned_values"]:
            setattr(module, name, as_tensor(changes["pruned_values"][path]).to(_device_of(roots), copy=True))


def _pruned(roots: Roots) -> dict[str, tuple[torch.nn.Module, str]]:
    """Module and name of each tensor that is pruned now, by its path; of a module in two roots the first."""
    found: dict[tuple[int, str], str] = {}
    owners = {}
    for path, module in _modules(roots):
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, prune.BasePruningMethod) and (id(module), hook._tensor_name) not in found:
                whole = f"{path}{hook._tensor_name}"
                found[id(module), hook._tensor_name] = whole
                owners[whole] = (module, hook._tensor_name)
    return owners


def _modules(roots: Roots) -> Iterator[tuple[str, torch.nn.Module]]:
    for root, module in roots.items():
        for path, part in uncompiled(module).named_modules():
            yield f"{root}/{path}." if path else f"{root}/", part


def _tensors(roots: Roots) -> dict[str, torch.Tensor]:
    """What a checkpoint has of them; of one that is in several places, the first."""
    by_id: dict[int, str] = {}
    tensors = {}
    for root, module in roots.items():
        for path, value in uncompiled(module).state_dict(keep_vars=True).items():
            if isinstance(value, torch.Tensor) and id(value) not in by_id:
                by_id[id(value)] = f"{root}/{path}"
                tensors[f"{root}/{path}"] = value
    return tensors


def _without_pruning(tensors: Mapping[str, Any], pruned: Any) -> dict[str, Any]:
    """By the names that they have where nothing is pruned."""
    masks = {f"{path}_mask" for path in pruned}
    originals = {f"{path}_orig": path for path in pruned}
    return {originals.get(path, path): value for path, value in tensors.items() if path not in masks}


def _shape(tensor: torch.Tensor) -> Any:
    """None of one that isn't there yet, which takes its shape from the checkpoint."""
    return None if torch.nn.parameter.is_lazy(tensor) else tensor.shape


def _differs(before: Any, now: Any) -> bool:
    return before is not None and before != now


def _owner(roots: Roots, path: str) -> tuple[torch.nn.Module, str]:
    root = max((root for root in roots if path.startswith(f"{root}/")), key=len)
    inner = path[len(root) + 1 :]
    module_path, _, name = inner.rpartition(".")
    return uncompiled(roots[root]).get_submodule(module_path), name


def _device_of(roots: Roots) -> torch.device:
    for module in roots.values():
        for parameter in module.parameters():
            return parameter.device
    return torch.device("cpu")
