"""What Lightning and the optimizers need to go on: as plain data and arrays, and back."""

from __future__ import annotations

import copy
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from mlpug.checkpoints import RawTensor
from mlpug.datasets.random_states import is_same_plain
from mlpug.dropped_states import warn_of_dropped_states
from mlpug.errors import CheckpointMismatchError
from mlpug.model_checkpoint import check_names, check_optimizer_class
from mlpug.plain import from_plain, to_plain
from mlpug_lightning.accumulation import parameters_of
from mlpug_lightning.arrays import (
    as_array,
    as_tensor,
    leaf_from_plain,
    leaf_to_plain,
    placed_from_plain,
    placed_to_plain,
)
from mlpug_lightning.averaged_weights import averaged_state, is_averaging, load_averaged_state
from mlpug_lightning.bridge import is_ours
from mlpug_lightning.components import component_state, has_lazy, prepared
from mlpug_lightning.host import pl


def remaining_state(training_model: torch.nn.Module, components: Mapping[str, torch.nn.Module]) -> dict[str, Any]:
    """What the training model holds besides its components, such as a loss function with weights of its own."""
    return component_state(training_model, only=_remaining(training_model, components))


def _remaining(training_model: torch.nn.Module, components: Mapping[str, torch.nn.Module]) -> set[str]:
    of_components = {id(value) for part in components.values() for value in part.state_dict(keep_vars=True).values()}
    tensors = training_model.state_dict(keep_vars=True)
    return {path for path, value in tensors.items() if id(value) not in of_components}


def load_model_state(
    training_model: torch.nn.Module, components: Mapping[str, torch.nn.Module], state: Mapping[str, Any]
) -> None:
    """Give the components, and what the training model holds besides them, their weights."""
    check_names("model components", components, state["model"])
    parts = [prepared(part, state["model"][name], name, same_dtypes=True) for name, part in components.items()]
    if any(has_lazy(part) for part in components.values()):
        for assign in parts:  # first: before they aren't there, nothing can be said about the training model
            assign()
    remaining = _remaining(training_model, components)
    kept = component_state(training_model, only=training_model.state_dict(keep_vars=True).keys() - remaining)
    # The components last: what is kept of them here are the weights from before.
    prepared(training_model, {**kept, **state["training_model"]}, "training_model", same_dtypes=True)()
    for assign in parts:
        assign()


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Its state dict, by the number of the parameter in the order in which the optimizer got them.

    What it has under other keys, or in other forms, is beside that, as it is.
    """
    state = optimizer.state_dict()
    of_parameters = {key: values for key, values in state.get("state", {}).items() if _is_usual(key, values)}
    own = {key: values for key, values in state.get("state", {}).items() if key not in of_parameters}
    more = {key: value for key, value in state.items() if key not in ("state", "param_groups")}
    return {
        "class": type(optimizer).__qualname__,
        "shapes": [list(parameter.shape) for parameter in parameters_of(optimizer)],
        "state": {str(number): _encoded(values) for number, values in of_parameters.items()},
        "param_groups": to_plain(state["param_groups"], leaf_to_plain) if "param_groups" in state else None,
        "own": to_plain({"state": own, "more": more}, placed_to_plain, path=(f"optimizer {type(optimizer).__name__}",)),
    }


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Any], copies: bool = False) -> None:
    """Give it back; what torch's own loading of a parameter's values doesn't bear is set as it is.

    Args:
        optimizer: whose it is.
        state: what `optimizer_state` gave.
        copies: whether the optimizer gets memory of its own, because the same will be given back once more.
    """
    native, parameters = native_optimizer_state(state), parameters_of(optimizer)
    if copies:
        native = copy.deepcopy(native)
    of_parameters = {key: values for key, values in native["state"].items() if key in range(len(parameters))}
    unusual = {number: values for number, values in of_parameters.items() if not _is_usual(number, values)}
    usual = {key: values for key, values in native["state"].items() if key not in unusual}
    optimizer.load_state_dict({**native, "state": usual})
    for number, values in unusual.items():
        optimizer.state[parameters[number]] = values


def native_optimizer_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state dict that the optimizer gave."""
    numbered = {int(number): _decoded(values) for number, values in state["state"].items()}
    own = from_plain(state.get("own", {"state": {}, "more": {}}), placed_from_plain)  # mlpug 0.1 had none
    native = {"state": {**numbered, **own["state"]}, **own["more"]}
    if state["param_groups"] is not None:
        native["param_groups"] = from_plain(state["param_groups"], leaf_from_plain)
    return native


def _is_usual(key: Any, values: Any) -> bool:
    """Whether it is what torch's optimizers have of a parameter: tensors and numbers, by name."""
    return type(key) is int and type(values) is dict and all(type(name) is str for name in values) and _loads(values)


def _loads(value: Any) -> bool:
    """Whether torch, which puts it onto the parameter's device, makes the same of it."""
    if type(value) in (dict, list, tuple):
        return all(map(_loads, value.values() if type(value) is dict else value))
    return not isinstance(value, (np.ndarray, np.generic, deque, set, frozenset))


def check_optimizers(optimizers: Mapping[str, torch.optim.Optimizer], states: Mapping[str, Any]) -> None:
    """Refuse the state of other optimizers, or of the same on other parameters."""
    check_names("optimizers", optimizers, states)
    for name, optimizer in optimizers.items():
        check_optimizer_class(name, type(optimizer).__qualname__, states[name]["class"])
        shapes = [_shape_beside(each, found) for each, found in _pairs(optimizer, states[name]["shapes"])]
        sizes = [len(group["params"]) for group in optimizer.param_groups]
        found_groups = states[name]["param_groups"]  # None of an optimizer whose state dict has none
        found_sizes = sizes if found_groups is None else [len(group["params"]) for group in found_groups]
        if shapes != states[name]["shapes"] or sizes != found_sizes:
            raise CheckpointMismatchError(
                f"The optimizer {name!r} has other parameters than in the checkpoint: expected groups of {sizes} "
                f"parameters with the shapes {shapes}, found groups of {found_sizes} with {states[name]['shapes']}."
            )


def _pairs(optimizer: torch.optim.Optimizer, shapes: list[Any]) -> Iterable[tuple[torch.Tensor, Any]]:
    parameters = parameters_of(optimizer)
    return zip(parameters, [*shapes, *[None] * len(parameters)], strict=False)


def _shape_beside(parameter: torch.Tensor, found: Any) -> Any:
    """A parameter that isn't there yet takes the shape that it finds."""
    return found if torch.nn.parameter.is_lazy(parameter) else list(parameter.shape)


def native_state(trainer: pl.Trainer) -> dict[str, Any]:
    """The states of Lightning's own callbacks and of its precision."""
    return {
        "callbacks": callback_states(trainer),
        "precision": to_plain(trainer.precision_plugin.state_dict(), leaf_to_plain),
        "averages": {key: averaged_state(callback) for key, callback in _by_key(trainer) if is_averaging(callback)},
    }


def callback_states(trainer: pl.Trainer) -> dict[str, Any]:
    """Those of Lightning's own callbacks alone."""
    return {key: to_plain(callback.state_dict(), leaf_to_plain) for key, callback in _by_key(trainer)}


def load_native_state(trainer: pl.Trainer, state: Mapping[str, Any], only_changed: bool = False) -> None:
    """Give them back.

    Args:
        trainer: Lightning's, which has set everything up: that is when its own would.
        state: what `native_state` gave.
        only_changed: to those callbacks whose state is another one now.
    """
    if trainer.global_rank == 0 and not only_changed:
        warn_of_dropped_states(state["callbacks"], [key for key, _ in _by_key(trainer)])
    for key, callback in _by_key(trainer):
        if key in state["callbacks"] and not (only_changed and _has_state(callback, state["callbacks"][key])):
            callback_state = from_plain(state["callbacks"][key], leaf_from_plain)
            if callback_state:
                callback.load_state_dict(callback_state)
        if is_averaging(callback) and not only_changed:
            was_there, averages = key in state["callbacks"], state.get("averages", {})
            load_averaged_state(callback, averages.get(key), was_there, trainer.lightning_module)
    precision_state = from_plain(state["precision"], leaf_from_plain)
    if precision_state:
        trainer.precision_plugin.load_state_dict(precision_state)


def _has_state(callback: pl.Callback, state: Any) -> bool:
    return is_same_plain(to_plain(callback.state_dict(), leaf_to_plain), state)


def loop_state(trainer: pl.Trainer, first_epoch: int) -> dict[str, int]:
    """How much Lightning has counted, at the end of a batch or of an epoch.

    Args:
        trainer: whose loops.
        first_epoch: how many epochs it had counted when mlpug's training started.
    """
    loop: Any = trainer.fit_loop.epoch_loop
    return {
        "first_epoch": first_epoch,
        "batches": loop.batch_progress.total.processed,
        "optimizer_steps": loop.manual_optimization.optim_step_progress.total.completed,
    }


def start_loops_at(trainer: pl.Trainer, state: Mapping[str, int], num_epochs: int, num_batches: int) -> None:
    """Let Lightning count on, and go on within an epoch if any of its batches are done.

    Its own restoring counts by where in the loop a checkpoint was written, and skips an epoch after one written at the
    end of an epoch's last batch. Here nothing is under way: what is started is processed and completed.
    """
    fit_loop: Any = trainer.fit_loop  # whose counters' types aren't as they are declared
    loop = fit_loop.epoch_loop
    epochs_done = state["first_epoch"] + num_epochs
    started = epochs_done + (1 if num_batches else 0)
    for progress in (fit_loop.epoch_progress.total, fit_loop.epoch_progress.current):
        progress.ready = progress.started = started
        progress.processed = progress.completed = epochs_done
    for progress, count in ((loop.batch_progress.total, state["batches"]), (loop.batch_progress.current, num_batches)):
        progress.ready = progress.started = progress.processed = progress.completed = count
    steps = loop.manual_optimization.optim_step_progress
    for progress in (steps.total, steps.current):
        progress.ready = progress.completed = state["optimizer_steps"]
    loop._batches_that_stepped = state["batches"]
    # Within an epoch: its start isn't told again, and its first batches are counted as fetched.
    fit_loop.restarting = bool(num_batches)
    # Else it would ask for the first iterator a second time, and lose what was fetched ahead by the first.
    fit_loop._resuming_from_checkpoint = True


def _by_key(trainer: pl.Trainer) -> Iterable[tuple[str, pl.Callback]]:
    """Lightning's own callbacks, by a text that is the same in the next process.

    Lightning takes anything that is hashable for a `state_key`. What isn't text is replaced by the class's name.
    """
    callbacks: list[pl.Callback] = trainer.callbacks  # type: ignore[attr-defined]  # set where no type checker sees it
    counts: Counter[str] = Counter()
    for callback in callbacks:
        if is_ours(callback):
            continue
        key: Any = callback.state_key
        if not isinstance(key, str):
            name = f"{type(callback).__module__}.{type(callback).__qualname__}"
            counts[name] += 1
            key = name if counts[name] == 1 else f"{name}-{counts[name]}"
        yield key, callback


def _encoded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: as_array(value) if isinstance(value, torch.Tensor) else to_plain(value, leaf_to_plain)
        for name, value in values.items()
    }


def _decoded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: as_tensor(value) if isinstance(value, (np.ndarray, RawTensor)) else from_plain(value, leaf_from_plain)
        for name, value in values.items()
    }
