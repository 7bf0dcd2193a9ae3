"""A module's weights as what a checkpoint holds, and back into a module."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Any

import numpy as np
import torch

from mlpug.checkpoints import RawTensor
from mlpug.checkpoints.files import PathLike
from mlpug.checkpoints.tensors import as_bytes
from mlpug.errors import CheckpointMismatchError, ConfigurationError, StateError
from mlpug.model_checkpoint import ModelCheckpoint, Weight, check_fits, read_model_checkpoint
from mlpug.plain import from_plain, to_plain
from mlpug_lightning.arrays import as_array, as_tensor, leaf_from_plain, leaf_to_plain

_EXTRA = "_extra_state"  # how torch calls what a module's get_extra_state gives


def load_model_checkpoint(path: PathLike) -> ModelCheckpoint:
    """Read a checkpoint's weights, hyper-parameters and logs; `ModelCheckpoint.restore` gives the weights to modules.

    Args:
        path: a model checkpoint of a `CheckpointManager`; a training checkpoint has the weights too.

    Raises:
        CheckpointNotFoundError: There is no such file.
        CheckpointDamagedError: It isn't, byte for byte, what was written, or it is no checkpoint of mlpug.
        CheckpointMismatchError: It is a checkpoint of mlpug, but holds no model.

    >>> import tempfile
    >>> from mlpug import checkpoints
    >>> from mlpug.logs import Logs
    >>> from mlpug.model_checkpoint import model_checkpoint_state
    >>> trained, classifier = torch.nn.Linear(4, 2), torch.nn.Linear(4, 2)
    >>> state = model_checkpoint_state("pytorch", {"classifier": component_state(trained)}, {}, Logs(), 40, 1)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     checkpoints.save(f"{directory}/best.safetensors", state)
    ...     checkpoint = load_model_checkpoint(f"{directory}/best.safetensors")
    >>> checkpoint.restore(classifier=classifier)
    >>> torch.equal(trained.weight, classifier.weight)
    True
    """
    return read_model_checkpoint(path, "pytorch", prepared)


def component_state(component: Any, only: Container[str] | None = None) -> dict[str, Any]:
    """The module's `state_dict` as arrays, by torch's own names; on the CPU they are views of the weights.

    What a module's `get_extra_state` gives is under its name as plain data. A module that `torch.compile` made has the
    names of the one that it was made of.

    Args:
        component: the module.
        only: names; None for all.

    Raises:
        StateError: not a module, weights that aren't there yet, or something that a checkpoint can't hold.

    >>> {path: array.shape for path, array in component_state(torch.nn.Linear(4, 2)).items()}
    {'weight': (2, 4), 'bias': (2,)}
    """
    if not isinstance(component, torch.nn.Module):
        raise StateError(
            f"A model component must be a torch.nn.Module to be saved, not {component!r}. "
            "Leave it out of model_components."
        )
    tensors = _state_dict(component)
    return {name: _plain(name, value) for name, value in tensors.items() if only is None or name in only}


def load_component_state(component: Any, state: Mapping[str, Any], name: str, same_dtypes: bool = False) -> None:
    """Give a module what `component_state` gave, in place.

    Raises:
        CheckpointMismatchError: see `prepared`; nothing has changed.

    >>> linear = torch.nn.Linear(1, 1)
    >>> load_component_state(linear, {"weight": np.ones((1, 1), np.float32), "bias": np.zeros(1, np.float32)}, "model")
    >>> linear.weight.item()
    1.0
    """
    prepared(component, state, name, same_dtypes)()


def prepared(component: Any, state: Mapping[str, Any], name: str, same_dtypes: bool = False) -> Callable[[], None]:
    """Check that what `component_state` gave fits a module, and return what assigns it.

    Args:
        component: the module.
        state: arrays by torch's names; strict: exactly what the module has.
        name: of the component.
        same_dtypes: True refuses floats with more or fewer bits; torch itself rounds them.

    Raises:
        CheckpointMismatchError: something is missing, too many, or of another shape or kind of numbers.
    """
    if not isinstance(component, torch.nn.Module):
        raise ConfigurationError(f"The component {name!r} must be a torch.nn.Module, not {component!r}.")
    own = _state_dict(component)
    check_fits(name, {path: _expected(path, value) for path, value in own.items()}, state, same_dtypes)
    _check_tied(name, own, state)
    values = {path: _loaded(path, value) for path, value in state.items()}
    # Without the versions of its modules, torch takes a state for one of its first, and converts it.
    versioned = type(own)(values)
    versioned._metadata = own._metadata
    return lambda: _assign(component, versioned)


def _assign(component: torch.nn.Module, values: Mapping[str, Any]) -> None:
    uncompiled(component).load_state_dict(values)


def uncompiled(component: torch.nn.Module) -> torch.nn.Module:
    """The module that `torch.compile` made this one of; else itself."""
    return component._modules.get("_orig_mod") or component


def _state_dict(component: torch.nn.Module) -> Any:
    return uncompiled(component).state_dict(keep_vars=True)  # of tied weights, the very same one


def has_lazy(component: torch.nn.Module) -> bool:
    """Whether it has weights that aren't there yet.

    >>> has_lazy(torch.nn.Sequential(torch.nn.LazyLinear(3)))
    True
    """
    return any(torch.nn.parameter.is_lazy(value) for value in _state_dict(component).values())


def _is_extra(path: str) -> bool:
    return path.rpartition(".")[2] == _EXTRA


def _plain(path: str, value: Any) -> Any:
    if _is_extra(path) or not isinstance(value, torch.Tensor):
        return to_plain(value, leaf_to_plain, path=(path,))
    if torch.nn.parameter.is_lazy(value):
        raise StateError(f"The weight {path!r} isn't there yet: call the lazy module once on data before it is saved.")
    return as_array(value)


def _loaded(path: str, value: Any) -> Any:
    if isinstance(value, (np.ndarray, RawTensor)) and not _is_extra(path):
        return as_tensor(value)
    # What a module does with its extra state is its own affair: it gets memory of its own.
    return from_plain(value, lambda content: _cloned(leaf_from_plain(content)))


def _cloned(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value


def _expected(path: str, value: Any) -> Weight | None:
    """None for extra state, and for lazy weights, which take their shape from what they are given."""
    if _is_extra(path) or not isinstance(value, torch.Tensor) or torch.nn.parameter.is_lazy(value):
        return None
    return Weight(str(value.dtype).removeprefix("torch."), tuple(value.shape))


def _check_tied(name: str, own: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Refuse two values for one weight, of which the last one would win."""
    first: dict[int, str] = {}
    for path, value in own.items():
        if not isinstance(value, torch.Tensor) or _is_extra(path):
            continue
        other = first.setdefault(id(value), path)
        if other != path and not _same(state[other], state[path]):
            raise CheckpointMismatchError(
                f"The checkpoint doesn't fit the component {name!r}: {other!r} and {path!r} are one tied weight of the "
                "model, and two different ones in the checkpoint. Untie them to restore it."
            )


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(as_bytes(one), as_bytes(other))
    return bool(one == other)
