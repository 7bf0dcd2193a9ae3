"""The variables that something holds, whatever it is, each by the way that leads to it.

Keras tracks the weights of layers; beside them stand variables that nobody tracks: those of an object of one's own, of
a loss, of a callback, of an RNN that is stateful, TensorFlow's own.
"""

from __future__ import annotations

import functools
import sys
import types
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from mlpug.errors import MlpugWarning
from mlpug_keras.arrays import as_array, as_value

MAX_DEPTH = 40
_MAX_NUMBER = 200_000
_LEAVES = {bool, int, float, complex, str, bytes, type(None), type}
# Keras's own account of what a layer has, which is looked at last, for what no attribute holds; and what it only uses.
_ACCOUNTS = ("_layers", "_metrics", "_seed_generators", "_trainable_variables", "_non_trainable_variables")
_NOT_HELD = {"_functional", "_inbound_nodes", "_nodes", "_nodes_by_depth", "_operations", "_operations_by_depth"}
_NOT_HELD |= {"_outbound_nodes", "_tracker", "_jax_state", "_distribute_strategy", "_distribution_strategy"}
_NOT_HELD |= {"train_function", "test_function", "predict_function", "_eval_epoch_iterator", "history"}
# Nobody's own objects are of these, and they lead everywhere.
_LIBRARIES = {"jax", "jaxlib", "ml_dtypes", "mlpug", "mlpug_keras", "numpy", "optree", "scipy", "tensorflow", "torch"}
_LIBRARIES |= set(sys.stdlib_module_names)


class HeldVariables:
    """What is found on a walk through attributes, containers, closures, partials and bound methods.

    Each thing is taken once, where it is met first.

    Attributes:
        variables: by path.
        optimizers: by path; their variables aren't among the others.
        untold: what a checkpoint can't hold or tell apart, and where the walk was ended.

    >>> held = HeldVariables()
    >>> held.look_into([keras.Variable(0.0), {"all": keras.Variable(1.0)}], "counts")
    >>> list(held.variables)
    ['counts.0', 'counts.1.all']
    """

    def __init__(self) -> None:
        self.variables: dict[str, Any] = {}
        self.optimizers: dict[str, Any] = {}
        self.untold: list[str] = []
        self._met: dict[int, Any] = {}  # by id; kept alive: ids are used again
        self._in_optimizer = False

    def further(self) -> HeldVariables:
        """Another one, which leaves out what this one has met, and the other way round."""
        other = HeldVariables()
        other._met = self._met
        return other

    def leave_out(self, *things: Any) -> None:
        """Don't look into these."""
        self._met |= {id(thing): thing for thing in things}

    def all(self) -> dict[str, Any]:
        """The variables by path, those of optimizers too."""
        of_optimizers = {
            f"{path}.{number}": variable
            for path, optimizer in self.optimizers.items()
            for number, variable in enumerate(optimizer.variables)
        }
        return {**self.variables, **of_optimizers}

    def look_into(self, value: Any, path: str, depth: int = 0) -> None:
        """Find what it holds."""
        if type(value) in _LEAVES or id(value) in self._met or _is_of_mlpug(value):
            return
        if depth > MAX_DEPTH or len(self._met) > _MAX_NUMBER:
            self._tell_end()
            return
        self._met[id(value)] = value
        if is_variable(value):
            self._take(value, path)
        elif isinstance(value, keras.optimizers.Optimizer) and not self._in_optimizer:
            self.optimizers[_unique(path, self.optimizers)] = value
            self.leave_out(*value.variables)
            self._in_optimizer = True  # one in another has nothing besides
            self._look_within(value, path, depth)
            self._in_optimizer = False
        else:
            self._look_within(value, path, depth)

    def _look_within(self, value: Any, path: str, depth: int) -> None:
        for name, item in self._within(value, path):
            self.look_into(item, f"{path}.{name}" if path else name, depth + 1)

    def _within(self, value: Any, path: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, Mapping):
            yield from ((str(key), item) for key, item in value.items())
        elif isinstance(value, (list, tuple)):
            yield from ((str(index), item) for index, item in enumerate(value) if type(item) not in _LEAVES)
        elif isinstance(value, (set, frozenset)):
            yield from self._of_set(value, path)
        elif isinstance(value, (types.FunctionType, types.MethodType, functools.partial)):
            yield from _within_function(value)
        elif has_attributes(value):
            yield from _attributes(value)

    def _of_set(self, items: Any, path: str) -> Iterator[tuple[str, Any]]:
        """Several have no order, by which they could be found again."""
        own = [item for item in items if type(item) not in _LEAVES]
        if len(own) == 1:
            yield "0", own[0]
            return
        held = self.further()
        for item in own:
            held.look_into(item, path)
        if held.all():
            self.untold.append(f"{path} (a set, in which a checkpoint can't tell them apart: make it a list)")

    def _take(self, variable: Any, path: str) -> None:
        if _is_of_numbers(variable):
            self.variables[_unique(path, self.variables)] = variable
        else:
            self.untold.append(f"{path} (a variable of {variable.dtype})")

    def _tell_end(self) -> None:
        message = f"what lies deeper than {MAX_DEPTH} steps, or behind {_MAX_NUMBER} objects"
        if message not in self.untold:
            self.untold.append(message)


def _is_of_mlpug(value: Any) -> bool:
    return type(value).__module__.split(".")[0] in ("mlpug", "mlpug_keras")


def is_variable(value: Any) -> bool:
    """Whether it is a variable of Keras's or of TensorFlow's own."""
    return isinstance(value, (keras.Variable, *_of_tensorflow("Variable")))


def has_attributes(value: Any) -> bool:
    """Whether it is an object that somebody's own code may have put something into."""
    if isinstance(value, (type, types.ModuleType, keras.KerasTensor)) or not hasattr(value, "__dict__"):
        return False
    if isinstance(value, (keras.layers.Layer, types.SimpleNamespace, *_of_tensorflow("Module"))):
        return True
    if isinstance(value, _of_tensorflow("random", "Generator")):
        return True
    return type(value).__module__.split(".")[0] not in _LIBRARIES


def _of_tensorflow(*names: str) -> tuple[Any, ...]:
    """A class of TensorFlow's, as nothing where TensorFlow isn't loaded."""
    found: Any = sys.modules.get("tensorflow")
    for name in names:
        found = getattr(found, name, None)
    return () if found is None else (found,)


def _attributes(value: Any) -> Iterator[tuple[str, Any]]:
    """Sorted, because the same code may set them in another order; Keras's account of a layer comes last."""
    attributes = vars(value)
    is_layer = isinstance(value, keras.layers.Layer)
    hidden = ("_tracker", "_model") if isinstance(value, keras.callbacks.Callback) else ("_tracker",)
    for name in sorted(attributes, key=lambda name: (name.startswith("_"), name)):
        is_account = is_layer and (name in _ACCOUNTS or name in _NOT_HELD)
        if not (is_account or name.startswith("_self_") or name in hidden):
            yield name.lstrip("_"), attributes[name]
    if is_layer:
        for name in _ACCOUNTS:
            yield name.lstrip("_"), attributes.get(name)


def _within_function(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, functools.partial):
        yield from (("func", value.func), ("args", value.args), ("keywords", value.keywords))
    elif isinstance(value, types.MethodType):
        yield from (("self", value.__self__), ("func", value.__func__))
    elif (value.__module__ or "").split(".")[0] not in {*_LIBRARIES, "keras"}:
        yield "defaults", value.__defaults__
        yield "keyword_defaults", value.__kwdefaults__
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=True):
            try:
                yield name, cell.cell_contents
            except ValueError:  # not set yet
                continue


def _unique(path: str, taken: Mapping[str, Any]) -> str:
    candidate, number = path, 0
    while candidate in taken:
        number += 1
        candidate = f"{path}_{number}"
    return candidate


def _is_of_numbers(variable: Any) -> bool:
    name = str(getattr(variable.dtype, "name", variable.dtype))
    return name not in ("string", "resource", "variant")


def arrays_of(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Their numbers now: in memory of their own, because TensorFlow writes into a variable's."""
    return {path: np.array(as_array(variable)) for path, variable in variables.items()}


def assign(variables: Mapping[str, Any], arrays: Mapping[str, Any], owner: str) -> None:
    """Give variables what `arrays_of` gave, where there is a fitting one; a warning names the others.

    Args:
        variables: by path.
        arrays: by path.
        owner: what messages call that which holds them.
    """
    values = {path: as_value(array) for path, array in arrays.items()}
    for path, value in values.items():
        if path in variables and tuple(variables[path].shape) == value.shape:
            variables[path].assign(value)
    missing = [path for path in variables if path not in values]
    not_here = [path for path, value in values.items() if path not in variables]
    of_other_shape = [
        path for path in values if path in variables and tuple(variables[path].shape) != values[path].shape
    ]
    problems = {
        "begin anew, because the checkpoint doesn't have them": missing,
        "are left out, because there is no such variable yet (make it before training starts)": not_here,
        "begin anew, because they have another shape in the checkpoint": of_other_shape,
    }
    told = [f"{', '.join(paths)} {what}" for what, paths in problems.items() if paths]
    if told:
        warnings.warn(f"Of the variables of {owner}, {'; '.join(told)}.", MlpugWarning, stacklevel=2)


def warn_of_untold(held: HeldVariables, owner: str) -> None:
    """Name what a checkpoint won't have."""
    warnings.warn(
        f"Training checkpoints won't have what {owner} holds in {'; '.join(held.untold)}. A resumed run begins with "
        "that anew.",
        MlpugWarning,
        stacklevel=2,
    )
