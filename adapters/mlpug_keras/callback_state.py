"""What Keras's own callbacks remember of a run: what they have changed since it started, and nothing else.

What they were made with (a path, a patience) is the script's to say, in a resumed run as in a new one.
"""

from __future__ import annotations

import hashlib
import inspect
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from mlpug.checkpoints import RawTensor
from mlpug.checkpoints.tensors import as_bytes
from mlpug.dropped_states import warn_of_dropped_states, warn_of_missing_states
from mlpug.errors import StateError
from mlpug.plain import from_plain, to_plain
from mlpug_keras.arrays import as_array, as_value
from mlpug_keras.held_variables import HeldVariables, arrays_of, assign, is_variable, warn_of_untold

# Of a callback, set anew by Keras; the last one by CSVLogger, which looks whether its file is there already.
_HOSTS_OWN: tuple[str, ...] = ("_model", "model", "params", "validation_data", "append_header")
# Of SwapEMAWeights: a training checkpoint has the trained weights in their place, whether or not they are there.
_HOSTS_OWN += ("_ema_weights_in_model",)
# What a run needs of them, or what they show, is in the model, the logs and their files.
_REMEMBER_NOTHING = (
    keras.callbacks.CSVLogger,
    keras.callbacks.LambdaCallback,
    keras.callbacks.LearningRateScheduler,
    keras.callbacks.ProgbarLogger,
    keras.callbacks.RemoteMonitor,
    keras.callbacks.SwapEMAWeights,
    keras.callbacks.TerminateOnNaN,
)


class CallbackStates:
    """The states of Keras's own callbacks among the listeners of a run."""

    def __init__(self) -> None:
        self._callbacks: dict[str, keras.callbacks.Callback] = {}
        self._at_start: dict[str, dict[str, bytes]] = {}  # what each attribute was, by callback
        self._restored: dict[str, set[str]] = {}  # what an earlier run had changed

    def begin(self, listeners: Sequence[Any]) -> None:
        """A run with these listeners begins."""
        self._callbacks = dict(_by_key(listeners))
        self._at_start, self._restored = {}, {}

    def key_of(self, callback: Any) -> str | None:
        """What a callback of the run is called in checkpoints."""
        return next((key for key, each in self._callbacks.items() if each is callback), None)

    def training_started(
        self, state: Mapping[str, Any] | None, of_model: HeldVariables, is_of_native_run: bool = False
    ) -> None:
        """Note what the callbacks are like, then give back what they had changed in the run that is resumed.

        Called when all have heard that training starts: that is when Keras's own callbacks forget everything, and when
        others derive what they need from what they were made with.

        Args:
            state: what `get` gave; None where the run begins.
            of_model: knows the variables of the model and its optimizers, which aren't the callbacks'.
            is_of_native_run: whether `as_native` gave it, which doesn't know the callbacks beside it.
        """
        self._at_start = {
            key: {name: _fingerprint(value) for name, value in _attributes(callback).items()}
            for key, callback in self._callbacks.items()
        }
        if state is not None:
            warn_of_dropped_states(_kept_in(state), self._callbacks)
            if is_of_native_run:
                warn_of_missing_states(
                    key for key, each in self._callbacks.items() if type(each) not in _REMEMBER_NOTHING
                )
        for key, held in self._held(of_model).items():
            if held.untold:
                warn_of_untold(held, f"the callback {key}")
            if state is not None:
                self._restored[key] = _restore(self._callbacks[key], *_changes_in(state, key, self._callbacks[key]))
                assign(held.all(), state.get("changes", {}).get(key, {}).get("variables", {}), f"the callback {key}")

    def get(self, of_model: HeldVariables) -> dict[str, Any]:
        """What each of them has changed, and the variables that it holds."""
        held = self._held(of_model)
        return {
            key: {
                "attributes": self._changed(key, callback),
                "compares": _compares(callback),
                "variables": arrays_of(held[key].all()),
            }
            for key, callback in self._callbacks.items()
            if key in self._at_start
        }

    def _held(self, of_model: HeldVariables) -> dict[str, HeldVariables]:
        """The variables, generators, metrics and optimizers of the callbacks; what several share is of the first."""
        found = {key: of_model.further() for key in self._callbacks}
        for key, held in found.items():
            held.look_into(self._callbacks[key], "")
        return found

    def _changed(self, key: str, callback: keras.callbacks.Callback) -> dict[str, Any]:
        at_start, restored = self._at_start[key], self._restored.get(key, ())
        return {
            name: value
            for name, value in _attributes(callback).items()
            if name in restored or at_start.get(name) != _fingerprint(value)
        }


def _changes_in(
    state: Mapping[str, Any], key: str, callback: keras.callbacks.Callback
) -> tuple[Mapping[str, Any], bool]:
    """The changed attributes of a callback, and whether it had chosen how to compare.

    A file of mlpug 0.1 has all attributes. There, those that a class of Keras's own takes as arguments stay what the
    script says: none of these classes changes one while training.
    """
    if "changes" in state:
        changes = state["changes"].get(key, {"attributes": {}, "compares": False})
        return changes["attributes"], changes["compares"]
    attributes = state["callbacks"].get(key, {})
    configured = _arguments_of_keras(callback)
    changed = {name: value for name, value in attributes.items() if name not in configured}
    return changed, "monitor" in attributes and "monitor_op" not in attributes


def _kept_in(state: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint has of each callback."""
    if "changes" not in state:
        return dict(state["callbacks"])
    return {key: [changes["attributes"], changes["variables"]] for key, changes in state["changes"].items()}


def _restore(callback: Any, attributes: Mapping[str, Any], compares: bool) -> set[str]:
    """Give a callback its attributes, and return their names."""
    if compares and not _compares(callback) and hasattr(callback, "_set_monitor_op"):
        callback._set_monitor_op()  # which one that looks at batches does at the end of the first epoch only
    for name, value in attributes.items():
        setattr(callback, name, from_plain(value, _leaf_from_plain))
    return set(attributes)


def _attributes(callback: keras.callbacks.Callback) -> dict[str, Any]:
    """Those that are plain data or arrays: Keras's callbacks have no states of their own to ask for."""
    attributes = {}
    # Keras turns the sign of min_delta when it chooses how to compare, and does so anew in each run.
    hosts_own = (*_HOSTS_OWN, "min_delta") if hasattr(callback, "_set_monitor_op") else _HOSTS_OWN
    for name, value in vars(callback).items():
        if name not in hosts_own:
            try:
                attributes[name] = to_plain(value, _leaf_to_plain)
            except StateError:  # a function, a file, a writer: made anew, as when training started
                continue
    return attributes


def _leaf_to_plain(value: Any) -> Any:
    """The `leaf` of `to_plain`: tensors of the backend, such as a loss that somebody noted."""
    is_one = keras.ops.is_tensor(value) and not is_variable(value)
    return {"tensor": np.array(as_array(value))} if is_one else NotImplemented


def _leaf_from_plain(content: Any) -> Any:
    return keras.ops.convert_to_tensor(as_value(content["tensor"]))


def _fingerprint(plain: Any) -> bytes:
    """What tells plain data from other plain data; of its size nothing is kept."""
    digest = hashlib.blake2b(digest_size=16)
    _digest(plain, digest)
    return digest.digest()


def _digest(plain: Any, digest: Any) -> None:
    if isinstance(plain, (np.ndarray, RawTensor)):
        digest.update(f"{plain.dtype}{tuple(plain.shape)}".encode())
        digest.update(as_bytes(plain.data if isinstance(plain, RawTensor) else plain))
    elif isinstance(plain, (dict, list)):
        items = plain.items() if isinstance(plain, dict) else enumerate(plain)
        digest.update(f"{type(plain).__name__}{len(plain)}".encode())
        for name, item in items:
            digest.update(f"{name!r}:".encode("utf-8", "surrogatepass"))
            _digest(item, digest)
    else:
        digest.update(f"{plain!r};".encode("utf-8", "surrogatepass"))


def _compares(callback: Any) -> bool:
    """Whether it monitors, and has chosen how: by a function, which isn't among its plain attributes."""
    return getattr(callback, "monitor_op", None) is not None


def _arguments_of_keras(callback: keras.callbacks.Callback) -> set[str]:
    """What the classes of Keras's own that it is of are made with."""
    classes = [kind for kind in type(callback).__mro__ if kind.__module__.split(".")[0] == "keras"]
    return {name for kind in classes for name in inspect.signature(kind).parameters}


def _by_key(listeners: Sequence[Any]) -> Iterator[tuple[str, keras.callbacks.Callback]]:
    counts: Counter[str] = Counter()
    for listener in listeners:
        if isinstance(listener, keras.callbacks.Callback):
            name = type(listener).__name__
            counts[name] += 1
            yield (name if counts[name] == 1 else f"{name}-{counts[name]}"), listener
