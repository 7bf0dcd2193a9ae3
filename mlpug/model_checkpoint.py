"""Model checkpoints: the weights of each component, and what is known about them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mlpug import checkpoints
from mlpug.checkpoints import RawTensor
from mlpug.checkpoints.files import PathLike
from mlpug.checkpoints.tensors import NUMPY_TYPES, OTHER_TYPES
from mlpug.errors import CheckpointError, CheckpointMismatchError, ConfigurationError
from mlpug.logs import Logs
from mlpug.plain import from_plain, to_plain
from mlpug.plain_logs import logs_as_dict, logs_to_plain

MAX_LISTED = 10  # mismatches in one message

# Checks a component's state completely, and returns what assigns it: called as prepare(component, state, name).
Prepare = Callable[[Any, Mapping[str, Any], str], Callable[[], None]]

_TYPE_NAMES = {raw: name for name, raw in OTHER_TYPES.items()} | {raw: dtype.name for raw, dtype in NUMPY_TYPES.items()}
_FLOATS = {name for name in _TYPE_NAMES.values() if "float" in name}


@dataclass(frozen=True, slots=True)
class Weight:
    """What a model has in one place."""

    dtype: str  # numpy's or ml_dtypes' name
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


@dataclass(frozen=True, slots=True, eq=False)
class ModelCheckpoint:
    """The weights of a model's components, as they were saved, and what is known about them.

    Arrays of bfloat16 and float8 are `mlpug.checkpoints.RawTensor`s.

    >>> import numpy as np, tempfile
    >>> from mlpug import checkpoints
    >>> def prepare(component, state, name):
    ...     return lambda: component.update(state)
    >>> state = model_checkpoint_state("fake", {"encoder": {"bias": np.zeros(2)}}, {"size": 2}, Logs(), 40, 1)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     checkpoints.save(f"{directory}/best.safetensors", state)
    ...     checkpoint = read_model_checkpoint(f"{directory}/best.safetensors", "fake", prepare)
    >>> encoder = {}
    >>> checkpoint.restore(encoder=encoder)
    >>> encoder, checkpoint.hyper_parameters, checkpoint.global_iter
    ({'bias': array([0., 0.])}, {'size': 2}, 40)
    """

    path: Path
    backend: str  # "pytorch", or "keras" for TensorFlow and JAX
    components: dict[str, dict[str, Any]]  # name: {path in the component: array}
    hyper_parameters: Any  # as they were given to the CheckpointManager; None in a training checkpoint
    logs: dict[str, Any]  # nested dicts: ["current"]["validation"]["dataset"]["loss"]
    global_iter: int  # batches that were trained
    epoch: int  # the epoch they ended in, from 0
    _here: str = field(repr=False)  # the backend to restore on
    _prepare: Prepare = field(repr=False)

    def restore(self, /, **components: Any) -> None:
        """Give components the weights that were saved by the same names, in place.

        Several can be restored at once: nothing is assigned before all were checked. Those that aren't named are left
        alone. Floats are rounded where a component has fewer bits than the checkpoint, as the backends do themselves.

        Raises:
            CheckpointMismatchError: There is no component of that name; a weight is missing, too many, or has another
                shape or kind of numbers; or the checkpoint is of another backend.
        """
        if not components:
            raise ConfigurationError(
                f"restore() has nothing to restore: give components by name, {listed(self.components)} here, as in "
                f"checkpoint.restore({next(iter(self.components), 'model')}=model)."
            )
        unknown = [name for name in components if name not in self.components]
        if unknown:
            raise CheckpointMismatchError(
                f"{self.path} has no component {listed(unknown)}; it has {listed(self.components)}."
            )
        if self.backend != self._here:
            raise CheckpointMismatchError(
                f"{self.path} holds weights of a model for {_WORDS.get(self.backend, self.backend)}; it can't be "
                f"restored into one for {_WORDS.get(self._here, self._here)}, where the same weights have other names "
                "and layouts. Only TensorFlow and JAX share checkpoints."
            )
        assignments = [self._prepare(part, self.components[name], name) for name, part in components.items()]
        for assign in assignments:
            assign()


_WORDS = {"pytorch": "PyTorch", "keras": "Keras (TensorFlow or JAX)"}


def model_checkpoint_state(
    backend: str,
    components: Mapping[str, Mapping[str, Any]],
    hyper_parameters: Any,
    logs: Logs,
    global_iter: int,
    epoch: int,
) -> dict[str, Any]:
    """What a model checkpoint's file holds.

    Args:
        backend: what `Adapter.backend` says.
        components: arrays by their path, for each component by name.
        hyper_parameters: whatever `mlpug.plain.to_plain` takes.
        logs: the logs of the run; every value is read.
        global_iter: how many batches were trained.
        epoch: the epoch they ended in.

    Raises:
        StateError: the hyper-parameters or the logs hold something that a checkpoint can't.

    >>> model_checkpoint_state("fake", {"model": {}}, {"sizes": (3, 4)}, Logs(epoch=0), 1, 0)["hyper_parameters"]
    {'sizes': {'__tuple__': [3, 4]}}
    """
    return {
        "kind": "model",
        "backend": backend,
        "model": {name: dict(component) for name, component in components.items()},
        "hyper_parameters": to_plain(hyper_parameters, path=("hyper_parameters",)),
        "logs": logs_to_plain(logs),
        "global_iter": global_iter,
        "epoch": epoch,
    }


def read_model_checkpoint(path: PathLike, backend: str, prepare: Prepare) -> ModelCheckpoint:
    """A model checkpoint, or what a training checkpoint has of one, after each byte of the file was verified.

    Args:
        path: of the file.
        backend: the one to restore on.
        prepare: how components are restored there.

    Raises:
        CheckpointNotFoundError: There is no such file.
        CheckpointDamagedError: It isn't, byte for byte, what was written, or it is no checkpoint of mlpug.
        CheckpointMismatchError: It is a checkpoint of mlpug, but holds no model.
    """
    state = checkpoints.load(path)
    kind = state.get("kind")
    model: Any = state.get("model")
    if kind not in ("model", "training") or not _is_model(model):
        raise CheckpointMismatchError(
            f"{path} holds no model: it is a checkpoint of kind {kind!r}. Load one that a CheckpointManager wrote, "
            "such as -best-model-checkpoint.safetensors."
        )
    try:
        counts = state if kind == "model" else _counts(state)
        return ModelCheckpoint(
            path=Path(path),
            backend=state["backend"],
            components=model,
            hyper_parameters=from_plain(state.get("hyper_parameters")),
            logs=logs_as_dict(state["logs"]),
            global_iter=counts["global_iter"],
            epoch=counts["epoch"],
            _here=backend,
            _prepare=prepare,
        )
    except KeyError as error:
        raise CheckpointMismatchError(
            f"{path} holds a model, but not what belongs to it: {error} is missing. Was it written by mlpug's "
            "CheckpointManager?"
        ) from error


def check_optimizer_class(name: str, expected: str, found: str) -> None:
    """Refuse the state of an optimizer of another class.

    >>> check_optimizer_class("optimizer", "Adam", "Adam")
    """
    if expected != found:
        raise CheckpointMismatchError(
            f"The optimizer {name!r} is of the class {expected}, and in the checkpoint of {found}: "
            "make the same optimizer to resume, or start a new run from the weights alone."
        )


def check_fits(name: str, expected: Mapping[str, Any], found: Mapping[str, Any], same_dtypes: bool = False) -> None:
    """Refuse weights that don't fit a component.

    Args:
        name: of the component.
        expected: what it has, by path: arrays or `Weight`s; where it is something else, anything is right.
        found: what the checkpoint has: arrays, `RawTensor`s, or other data.
        same_dtypes: True refuses also floats with more or fewer bits, which would be rounded.

    Raises:
        CheckpointMismatchError: one for all mismatches.

    >>> check_fits("classifier", {"bias": np.zeros(3)}, {"bias": np.zeros(2)})
    Traceback (most recent call last):
    mlpug.errors.CheckpointMismatchError: The checkpoint doesn't fit the component 'classifier':
    - bias: expected float64 (3,), found float64 (2,)
    ...
    """
    problems = []
    for path in [*expected, *(path for path in found if path not in expected)]:
        own = _described(expected[path]) if path in expected else "nothing"
        if path not in found:
            problems.append(f"{path}: expected {own}, found nothing")
        elif path not in expected or not _fits(weight_of(expected[path]), found[path], same_dtypes):
            problems.append(f"{path}: expected {own}, found {_described(found[path])}")
    if problems:
        lines = "".join(f"- {problem}\n" for problem in problems[:MAX_LISTED])
        more = f"and {len(problems) - MAX_LISTED} more.\n" if len(problems) > MAX_LISTED else ""
        raise CheckpointMismatchError(
            f"The checkpoint doesn't fit the component {name!r}:\n{lines}{more}"
            "Make the model as it was when the checkpoint was written, or use another checkpoint."
        )


def check_is_whole(is_updating: bool) -> None:
    """Refuse to take the state of weights that an error left half updated.

    >>> check_is_whole(is_updating=False)
    """
    if is_updating:
        raise CheckpointError(
            "An error ended training while the weights were being changed, so there is no whole state to save. "
            "The training checkpoint that was written before is untouched."
        )


def check_names(what: str, expected: Iterable[str], found: Iterable[str]) -> None:
    """Refuse a checkpoint of a run with other model components or optimizers.

    >>> check_names("optimizers", ["optimizer"], ["generator", "discriminator"])
    Traceback (most recent call last):
    mlpug.errors.CheckpointMismatchError: The checkpoint has the optimizers 'generator', 'discriminator'; expected ...
    """
    if set(expected) != set(found):
        raise CheckpointMismatchError(
            f"The checkpoint has the {what} {listed(found)}; expected {listed(expected)}. "
            "Give DefaultTrainer the same, by the same names."
        )


def weight_of(array: Any) -> Weight | None:
    """What kind of array this is, None where it is none.

    >>> weight_of(np.zeros((2, 3), np.float32)), weight_of("text")
    (Weight(dtype='float32', shape=(2, 3)), None)
    """
    if isinstance(array, Weight):
        return array
    if isinstance(array, RawTensor):
        return Weight(_TYPE_NAMES[array.dtype], array.shape)
    return Weight(array.dtype.name, array.shape) if isinstance(array, np.ndarray) else None


def _fits(expected: Weight | None, found: Any, same_dtypes: bool) -> bool:
    if expected is None:
        return True
    weight = weight_of(found)
    if weight is None or weight.shape != expected.shape:
        return False
    both_floats = {weight.dtype, expected.dtype} <= _FLOATS
    return weight.dtype == expected.dtype or (both_floats and not same_dtypes)


def _described(value: Any) -> str:
    return str(weight_of(value) or f"a {type(value).__name__}")


def _is_model(model: Any) -> bool:
    return type(model) is dict and all(type(component) is dict for component in model.values())


def _counts(state: Mapping[str, Any]) -> dict[str, Any]:
    return {"global_iter": state["run"]["batches_done"], "epoch": state["logs"]["current"]["epoch"]}


def listed(names: Iterable[str]) -> str:
    """Names for a message.

    >>> listed(["encoder", "decoder"]), listed([])
    ("'encoder', 'decoder'", 'none')
    """
    return ", ".join(repr(name) for name in names) or "none"


def shortened(names: Sequence[str], most: int = 4) -> str:
    """The first names for a message, and how many more there are.

    >>> shortened(["a", "b", "c"], most=2)
    'a, b and 1 others'
    """
    more = f" and {len(names) - most} others" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"
