"""The optimizers, and which variables of the model each of them trains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
from keras import ops

from mlpug.adapter import Clipping
from mlpug.errors import ConfigurationError
from mlpug.step_output import check_losses
from mlpug_keras.accumulation import overwrites


@dataclass(frozen=True, slots=True)
class Owner:
    """An optimizer, and where its variables are among the model's trainable ones."""

    name: str
    optimizer: keras.optimizers.Optimizer
    places: tuple[int, ...]
    clipped: tuple[int, ...] = ()  # those of them that have a gradient, and not what takes the variable's place

    def of(self, values: Sequence[Any]) -> list[Any]:
        """Those of the values, one for each trainable variable, that are this optimizer's."""
        return [values[place] for place in self.places]


class Optimizers:
    """One optimizer, which trains all that is trainable, or several that each train their own.

    Args:
        by_name: the optimizers.
        trainable_variables: for each name a layer, or a list of layers and variables; needed where there are several.

    Attributes:
        owners: the optimizers with their variables, once `build` was called.
        trained: all of these variables; the owners' places are among them, whatever is frozen later.
    """

    def __init__(self, by_name: Mapping[str, Any], trainable_variables: Mapping[str, Any] | None = None) -> None:
        for name, optimizer in by_name.items():
            _check_optimizer(name, optimizer)
        self._by_name = dict(by_name)
        self._parts = _checked_parts(by_name, trainable_variables)
        self.owners: tuple[Owner, ...] = ()
        self.trained: Sequence[Any] = ()
        if self._parts is not None and all(layer.built for part in self._parts.values() for layer in _layers_in(part)):
            _check_dont_overlap(self._parts)

    def __getitem__(self, name: str) -> Any:
        return self._by_name[name]

    def items(self) -> Any:
        """(name, optimizer) pairs."""
        return self._by_name.items()

    @property
    def is_built(self) -> bool:
        """Whether all of them have their variables."""
        return bool(self.owners)

    @property
    def variables(self) -> list[Any]:
        """Those of all optimizers, in their order."""
        return [variable for optimizer in self._by_name.values() for variable in optimizer.variables]

    def scale_losses(self) -> None:
        """Let each scale its loss dynamically, where it doesn't yet."""
        for name, optimizer in self._by_name.items():
            if not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
                self._by_name[name] = keras.optimizers.LossScaleOptimizer(optimizer)

    def build(self, model: keras.Model) -> None:
        """Find out which variables each of them trains, and create the optimizers' own.

        Raises:
            ConfigurationError: a variable has two optimizers, or none, or an optimizer has no variable.
        """
        if self.is_built:
            return
        trainable = model.trainable_variables
        owners = self._owners_of(trainable)
        for owner in owners:
            if not owner.places:
                raise ConfigurationError(
                    f"The optimizer {owner.name!r} has no parameters: the training model has no trainable variables for"
                    " it. Make the model that you train an attribute of the training model, and don't freeze all of it."
                )
        for owner in owners:
            if not owner.optimizer.built:
                owner.optimizer.build(owner.of(trainable))
        self.trained = list(trainable)
        self.owners = tuple(
            replace(owner, clipped=tuple(place for place in owner.places if not overwrites(trainable[place])))
            for owner in owners
        )

    def check_known(self, model: keras.Model) -> None:
        """Refuse weights that are trained by now, and weren't when the optimizers were built.

        Raises:
            ConfigurationError: there is one.
        """
        known = {id(variable) for variable in self.trained}
        _refuse([each for each in model.trainable_variables if id(each) not in known], "unfrozen")

    def check_unchanged(self, model: keras.Model) -> None:
        """The same, and weights that were trained then, and aren't now.

        Raises:
            ConfigurationError: there is one.
        """
        if self.is_built:
            self.check_known(model)
            _refuse([variable for variable in self.trained if not variable.trainable], "frozen")

    def losses(self, loss: Any) -> list[Any]:
        """What gradients are taken of: one loss for all trainable variables, or one for each optimizer's own.

        Each is multiplied by what its optimizer expects, which is more than 1 where it scales losses.
        """
        if isinstance(loss, Mapping):
            check_losses(loss, self._by_name)
            return [optimizer.scale_loss(loss[name]) for name, optimizer in self._by_name.items()]
        optimizers = list(self._by_name.values())
        if not self.are_scaled and len({optimizer.loss_scale_factor for optimizer in optimizers}) == 1:
            return [optimizers[0].scale_loss(loss)]  # one scale for all of them, or none
        return [optimizer.scale_loss(loss) for optimizer in optimizers]

    def in_order(self, values: Any) -> Any:
        """What there is for each optimizer in the order of the optimizers; JAX sorts dicts by their keys."""
        return {name: values[name] for name in self._by_name} if isinstance(values, Mapping) else values

    @property
    def are_scaled(self) -> bool:
        """Whether one of them looks for gradients that aren't finite itself, and leaves out such a step."""
        return any(isinstance(each, keras.optimizers.LossScaleOptimizer) for each in self._by_name.values())

    @property
    def iterations(self) -> list[Any]:
        """How many updates each has made."""
        return [optimizer.iterations for optimizer in self._by_name.values()]

    def clipped(self, gradients: Sequence[Any], clipping: Clipping) -> tuple[list[Any], Any]:
        """The gradients, clipped for each optimizer, and their norms from before: a number, or one for each name."""
        result = list(gradients)
        norms = {}
        for owner in self.owners:
            own = [gradients[place] for place in owner.clipped]
            own, norms[owner.name] = _clipped(own, clipping, owner.optimizer.scale_loss(1.0))
            for place, gradient in zip(owner.clipped, own, strict=True):
                result[place] = gradient
        return result, norms if len(norms) > 1 else next(iter(norms.values()))

    def _owners_of(self, trainable: Sequence[Any]) -> tuple[Owner, ...]:
        if self._parts is None:
            ((name, optimizer),) = self._by_name.items()
            return (Owner(name, optimizer, tuple(range(len(trainable)))),)
        _check_dont_overlap(self._parts)
        places = {id(variable): place for place, variable in enumerate(trainable)}
        owned = {name: list(_variables_in(part)) for name, part in self._parts.items()}
        owned_ids = {id(variable) for variables in owned.values() for variable in variables}
        free = [variable.path for variable in trainable if id(variable) not in owned_ids]
        if free:
            raise ConfigurationError(
                f"No optimizer trains {', '.join(free)}: name them in trainable_variables, or freeze them "
                "(layer.trainable = False)."
            )
        return tuple(
            Owner(name, self._by_name[name], tuple(places[id(each)] for each in variables if id(each) in places))
            for name, variables in owned.items()
        )


def _refuse(variables: Sequence[Any], done: str) -> None:
    if variables:
        raise ConfigurationError(
            f"{', '.join(variable.path for variable in variables)} were {done} after training had begun, which changes "
            "nothing in a step that is made already: Keras's own fit fails there too. Freeze and unfreeze before "
            "start_training; to change it later, end the run, and start another one."
        )


def _check_optimizer(name: str, optimizer: Any) -> None:
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise ConfigurationError(
            f"The optimizer {name!r} must be a keras.optimizers.Optimizer of Keras 3, not {optimizer!r}."
        )
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if inner.gradient_accumulation_steps:
        raise ConfigurationError(
            f"The optimizer {name!r} has gradient_accumulation_steps of its own, which leaves the last batches of an "
            "epoch over. Leave it out, and pass gradient_accumulation_steps to DefaultTrainer."
        )


def _checked_parts(by_name: Mapping[str, Any], parts: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if parts is None:
        if len(by_name) > 1:
            raise ConfigurationError(
                f"There are {len(by_name)} optimizers, {', '.join(by_name)}, and on Keras an optimizer doesn't know "
                "what it trains: pass trainable_variables={name: a layer, or a list of layers and variables, ...}."
            )
        return None
    if not isinstance(parts, Mapping) or parts.keys() != by_name.keys():
        names = ", ".join(map(str, parts)) if isinstance(parts, Mapping) else repr(parts)
        raise ConfigurationError(
            f"trainable_variables must have an entry for each optimizer, {', '.join(by_name)}, and has {names}."
        )
    for name, part in parts.items():
        for each in _as_list(part):
            if not isinstance(each, (keras.layers.Layer, keras.Variable)):
                raise ConfigurationError(
                    f"trainable_variables[{name!r}] must be a layer, or a list of layers and variables; {each!r} is "
                    "neither."
                )
    return {name: parts[name] for name in by_name}


def _check_dont_overlap(parts: Mapping[str, Any]) -> None:
    owner: dict[int, str] = {}
    for name, part in parts.items():
        for variable in _variables_in(part):
            if owner.setdefault(id(variable), name) != name:
                raise ConfigurationError(
                    f"trainable_variables gives {variable.path} to two optimizers, {owner[id(variable)]!r} and "
                    f"{name!r}: each variable has one."
                )


def _as_list(part: Any) -> list[Any]:
    return list(part) if isinstance(part, (list, tuple)) else [part]


def _layers_in(part: Any) -> Iterator[Any]:
    for each in _as_list(part):
        if isinstance(each, keras.layers.Layer):
            yield from each._flatten_layers()


def _variables_in(part: Any) -> Iterator[Any]:
    seen = set()
    for each in _as_list(part):
        for variable in each.trainable_variables if isinstance(each, keras.layers.Layer) else [each]:
            if id(variable) not in seen:
                seen.add(id(variable))
                yield variable


def _clipped(gradients: Sequence[Any], clipping: Clipping, scale: Any) -> tuple[list[Any], Any]:
    """Gradients of a loss that was multiplied by `scale`, and the L2 norm that they have without that."""
    scale = ops.cast(scale, "float32")
    present = [gradient for gradient in gradients if gradient is not None]
    norm = ops.sqrt(sum(ops.sum(ops.square(ops.cast(gradient, "float32"))) for gradient in present))

    def clip(gradient: Any) -> Any:
        dtype = keras.backend.standardize_dtype(gradient.dtype)
        if clipping.norm is not None:
            return gradient * ops.cast(ops.minimum(1.0, clipping.norm * scale / norm), dtype)
        limit = ops.cast(clipping.value * scale, dtype)
        # What isn't finite stays so: a loss scaler looks for it.
        return ops.where(ops.isfinite(gradient), ops.clip(gradient, -limit, limit), gradient)

    return [None if gradient is None else clip(gradient) for gradient in gradients], norm / scale
