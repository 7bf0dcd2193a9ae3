"""A layer's weights as what a checkpoint holds, and back into a layer.

The path of a weight is where it is in the model: the names of the attributes that lead to it. Keras's own names for
layers and variables can't serve: where nobody gave one, they count what was made before in the process.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras

from mlpug.checkpoints.files import PathLike
from mlpug.errors import CheckpointMismatchError, ConfigurationError, StateError
from mlpug.model_checkpoint import ModelCheckpoint, Weight, check_fits, read_model_checkpoint
from mlpug_keras.arrays import as_array, as_value

# What a training checkpoint has of a component besides its weights: seeds, and the variables of metrics.
_RUN = "run:"
# Keras's own account of what a layer has; that is found by its attributes.
_KERAS_OWN = {"_functional", "_inbound_nodes", "_layers", "_metrics", "_operations", "_outbound_nodes", "_tracker"}
_KERAS_OWN |= {"_non_trainable_variables", "_operations_by_depth", "_seed_generators", "_trainable_variables"}
_TRACKED = (keras.layers.Layer, keras.Variable, keras.random.SeedGenerator, keras.metrics.Metric)
_AUTOMATIC = re.compile(r"(\w+_)?variable(_\d+)?")


def load_model_checkpoint(path: PathLike) -> ModelCheckpoint:
    """Read a checkpoint's weights, hyper-parameters and logs; `ModelCheckpoint.restore` gives the weights to layers.

    It may have been written on TensorFlow or on JAX.

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
    >>> def make_classifier():
    ...     return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> trained, classifier = make_classifier(), make_classifier()
    >>> state = model_checkpoint_state("keras", {"classifier": component_state(trained)}, {}, Logs(), 40, 1)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     checkpoints.save(f"{directory}/best.safetensors", state)
    ...     checkpoint = load_model_checkpoint(f"{directory}/best.safetensors")
    >>> checkpoint.restore(classifier=classifier)
    >>> all((one == other).all() for one, other in zip(trained.get_weights(), classifier.get_weights(), strict=True))
    True
    """
    return read_model_checkpoint(path, "keras", prepared)


def component_state(component: Any, random: bool = False) -> dict[str, Any]:
    """The layer's weights as arrays, by their path; `random` adds seeds and the variables of metrics.

    Raises:
        StateError: not a layer, or one that isn't built yet.

    >>> layer = keras.layers.Dense(2)
    >>> layer.build((None, 4))
    >>> {path: array.shape for path, array in component_state(layer).items()}
    {'kernel': (4, 2), 'bias': (2,)}
    """
    return {path: as_array(variable) for path, variable in component_variables(component, random).items()}


def component_variables(component: Any, random: bool = False) -> dict[str, Any]:
    """The layer's weights by their path, which is the same wherever the same code made it.

    A path goes from attribute to attribute, and in Sequential and Functional models and in lists by the classes of the
    layers: ``encoder.conv2d_1.kernel``. What is reached on several paths, such as a shared layer, is there once.

    Args:
        component: a Keras layer or model.
        random: True adds the states of seed generators and the variables of metrics.

    Raises:
        StateError: not a layer, or one that isn't built yet.

    >>> layers = [keras.Input((8,)), keras.layers.Dense(4), keras.layers.Dropout(0.5), keras.layers.Dense(2)]
    >>> list(component_variables(keras.Sequential(layers)))
    ['dense.kernel', 'dense.bias', 'dense_1.kernel', 'dense_1.bias']
    """
    if not isinstance(component, keras.layers.Layer):
        raise StateError(
            f"A model component must be a Keras layer or model to be saved, not {component!r}. "
            "Leave it out of model_components."
        )
    walk = _Walk()
    walk.through(component, "")
    if not walk.weights and not component.built:
        raise StateError(f"The component {component.name!r} has no weights yet: call it once on data before.")
    return {**walk.weights, **walk.of_run} if random else walk.weights


def trainables(component: keras.layers.Layer) -> list[tuple[str, Any]]:
    """The layers in a layer and their weights, by path; each layer before what is in it.

    >>> model = keras.Sequential([keras.layers.Dense(4)])
    >>> model.build((None, 8))
    >>> [path for path, _ in trainables(model)][:4]
    ['', 'dense.', 'dense.kernel', 'dense.bias']
    """
    walk = _Walk()
    walk.through(component, "")
    return walk.trainables


def load_component_state(component: Any, state: Mapping[str, Any], name: str, same_dtypes: bool = False) -> None:
    """Give a layer what `component_state` gave.

    Raises:
        CheckpointMismatchError: see `prepared`; nothing has changed.

    >>> import numpy as np
    >>> layer = keras.layers.Dense(1, use_bias=False)
    >>> layer.build((None, 1))
    >>> load_component_state(layer, {"kernel": np.ones((1, 1), np.float32)}, "model")
    >>> layer.get_weights()
    [array([[1.]], dtype=float32)]
    """
    prepared(component, state, name, same_dtypes)()


def prepared(component: Any, state: Mapping[str, Any], name: str, same_dtypes: bool = False) -> Callable[[], None]:
    """Check that the weights that `component_state` gave fit a layer, and return what assigns them.

    Args:
        component: the layer; built, so that it has its weights.
        state: arrays by path; strict: exactly what the layer has. Seeds, and what metrics hold, are left out.
        name: of the component.
        same_dtypes: True refuses floats with more or fewer bits; Keras itself rounds them.

    Raises:
        CheckpointMismatchError: the layer isn't built, or something is missing, too many, or of another shape or kind
            of numbers.
    """
    if not isinstance(component, keras.layers.Layer):
        raise ConfigurationError(f"The component {name!r} must be a Keras layer or model, not {component!r}.")
    walk = _Walk()
    walk.through(component, "")
    arrays = {path: array for path, array in state.items() if not path.startswith(_RUN)}
    expected = {path: Weight(str(own.dtype), tuple(own.shape)) for path, own in walk.weights.items()}
    try:
        check_fits(name, expected, arrays, same_dtypes)
    except CheckpointMismatchError as error:
        if not walk.unbuilt:
            raise
        raise CheckpointMismatchError(
            f"The component {name!r} isn't built yet, so it doesn't have all its weights ({walk.unbuilt[0]} isn't): "
            f"call it once on a batch of data, then restore it.\n{error}"
        ) from None

    def assign() -> None:
        for path, variable in walk.weights.items():
            variable.assign(as_value(arrays[path]).astype(variable.dtype))

    return assign


class _Walk:
    """One way through a layer, each thing taken once, where it is met first.

    Attributes:
        weights: by path.
        of_run: seeds, and the variables of metrics, by path.
        trainables: layers and weights, by path, in the order in which they were met.
        unbuilt: what layers are called that aren't built.
        seen: ids of the layers and variables that were met.
    """

    def __init__(self) -> None:
        self.weights: dict[str, Any] = {}
        self.of_run: dict[str, Any] = {}
        self.trainables: list[tuple[str, Any]] = []
        self.unbuilt: list[str] = []
        self.seen: set[int] = set()

    def through(self, layer: Any, path: str) -> None:
        self.seen.add(id(layer))
        self.trainables.append((path, layer))
        if not layer.built:
            self.unbuilt.append(path.rstrip(".") or type(layer).__name__)
        members = list(_members_of(layer))
        names = {id(member): name for name, member in reversed(members)}  # the first one counts
        own = _Names()
        for variable in (*layer._trainable_variables, *layer._non_trainable_variables):
            name = own.unique(_name_of(variable, layer) or names.get(id(variable)) or "variable")
            self._take(self.weights, path + name, variable)
        for generator in layer._seed_generators:
            name = own.unique(names.get(id(generator), "seed_generator"))
            self._take(self.of_run, f"{_RUN}{path}{name}", generator.state)
        for metric in layer._metrics:
            name = own.unique(names.get(id(metric), _snake_case(metric)))
            for number, variable in enumerate(metric.variables):
                self._take(self.of_run, f"{_RUN}{path}{name}.{number}", variable)
        children = _Names()
        for name, child in _children_of(layer, members):
            if id(child) not in self.seen:
                self.through(child, f"{path}{children.unique(name)}.")

    def _take(self, found: dict[str, Any], path: str, variable: Any) -> None:
        if id(variable) not in self.seen:
            self.seen.add(id(variable))
            found[path] = variable
            if found is self.weights:
                self.trainables.append((path, variable))


class _Names:
    """The names of one layer's members: the second ``dense`` is ``dense_1``."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def unique(self, name: str) -> str:
        candidate, number = name, 0
        while candidate in self._taken:
            number += 1
            candidate = f"{name}_{number}"
        self._taken.add(candidate)
        return candidate


def _children_of(layer: Any, members: list[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    """The layers in a layer: those that Keras has in an order, those that attributes hold, and the rest."""
    tracked = {id(child) for child in layer._layers}
    if isinstance(layer, (keras.Sequential, keras.src.models.Functional)):
        ordered = layer.layers
        tracked |= {id(child) for child in ordered}
        yield from ((_snake_case(child), child) for child in ordered)
    yield from ((name, member) for name, member in members if id(member) in tracked)
    yield from ((_snake_case(child), child) for child in layer._layers)


def _members_of(layer: Any) -> Iterator[tuple[str, Any]]:
    """What the attributes hold, by name; sorted, because on other backends they may be set in another order."""
    for name in sorted(vars(layer), key=lambda name: (name.startswith("_"), name)):
        if name not in _KERAS_OWN and not name.startswith("_self_"):  # those are TensorFlow's own account
            yield from _within(name.lstrip("_"), vars(layer)[name], depth=0)


def _within(name: str, value: Any, depth: int) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, (list, tuple)):
        names = _Names()
        items = [
            (names.unique(_snake_case(item) if isinstance(item, keras.layers.Layer) else str(index)), item)
            for index, item in enumerate(value)
        ]
    else:
        if isinstance(value, (set, frozenset)) and sum(isinstance(item, _TRACKED) for item in value) > 1:
            raise StateError(
                f"The layers in the set {name!r} have no order, so a checkpoint can't tell them apart. Make it a list."
            )
        if isinstance(value, _TRACKED):
            yield name, value
        return
    if depth < 10:  # what contains itself has no end
        for below, item in items:
            yield from _within(f"{name}.{below}", item, depth + 1)


def _name_of(variable: Any, layer: Any) -> str | None:
    """The variable's name, None where Keras made one up by counting."""
    name: str = variable.name
    if _AUTOMATIC.fullmatch(name):
        return None
    # Some are named for the layer, whose own name may be counted.
    is_counted = re.fullmatch(rf"{_snake_case(layer)}_\d+", layer.name) and name.startswith(f"{layer.name}_")
    return _snake_case(layer) + name.removeprefix(layer.name) if is_counted else name


def _snake_case(instance: Any) -> str:
    """The class's name, as Keras writes it in the names that it makes: Conv2D is conv2d."""
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", type(instance).__name__)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
