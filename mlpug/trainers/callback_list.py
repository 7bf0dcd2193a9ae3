"""Checks the list of callbacks when the manager is made, long before a mistake would show."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

from mlpug.callbacks.callback import HOOKS, STATES, Callback, called
from mlpug.callbacks.native_names import by_native_name, check_monitors
from mlpug.errors import ConfigurationError
from mlpug.logs import is_within
from mlpug.suggestions import did_you_mean, did_you_mean_path
from mlpug.trainers.default_trainer import DefaultTrainer
from mlpug.trainers.run_log import RunLog


def checked_callbacks(callbacks: Sequence[Any], trainer: DefaultTrainer) -> list[Any]:
    """The callbacks, if all of them can be called, and their names and metric paths fit together."""
    if not isinstance(callbacks, Sequence) or isinstance(callbacks, str):
        raise ConfigurationError(f"callbacks must be a list of callbacks, not {callbacks!r}.")
    checked: list[Any] = []
    for callback in callbacks:
        if isinstance(callback, Callback):
            check_hooks(callback)
            callback.check_trainer(trainer)
            if STATES in callback.required_of_run():
                trainer.check_can_save(called(callback))
        elif not trainer.adapter.is_native_callback(callback):
            raise ConfigurationError(
                "callbacks must be mlpug callbacks or callbacks of the host trainer, not "
                f"{callback!r}: {_cure(callback, trainer.adapter.backend)}."
            )
        if any(callback is other for other in checked):
            raise ConfigurationError(f"{callback!r} is in callbacks twice: it would be called twice at each hook.")
        checked.append(callback)
    ours = [callback for callback in checked if isinstance(callback, Callback)]
    check_paths_and_states(ours, trainer.clipping is not None, trainer.logs_itself)
    natives = [callback for callback in checked if not isinstance(callback, Callback)]
    of_natives = trainer.adapter.native_metrics(natives)
    if of_natives is not None:
        of_every_run = RunLog.metric_paths(has_gradient_norm=trainer.clipping is not None)
        paths = [*of_every_run, *(path for callback in ours for path in callback.metric_paths())]
        check_monitors(natives, of_natives, paths, trainer.logs_itself)
    return checked


def check_paths_and_states(callbacks: Sequence[Callback], has_gradient_norm: bool, logs_itself: Sequence[str]) -> None:
    """Refuse metric paths that nobody writes, and two states under one name.

    Args:
        callbacks: mlpug's.
        has_gradient_norm: whether the run has one.
        logs_itself: beginnings of paths below which the host writes.
    """
    _check_states(callbacks)
    _check_metric_paths(callbacks, [*RunLog.metric_paths(has_gradient_norm), *logs_itself])


def _cure(candidate: Any, backend: str) -> str:
    if isinstance(candidate, type):
        return "call it: pass an instance, not the class"
    for base in type(candidate).__mro__:
        library = _LIBRARIES.get(base.__module__.partition(".")[0])
        if library is not None:
            return (
                f"it is a callback of {library}, and this trainer is mlpug's for {backend}. Take the host trainer's "
                "own callback of that kind, or one of mlpug's"
            )
    return "derive it from mlp.callbacks.Callback, or from the host trainer's own callback class"


# By the packages that their callbacks come from.
_LIBRARIES = {
    "keras": "Keras",
    "tf_keras": "Keras 2",
    "pytorch_lightning": "PyTorch Lightning",
    "lightning": "PyTorch Lightning",
}


def _check_states(callbacks: Sequence[Callback]) -> None:
    names: set[str] = set()
    for callback in callbacks:
        if type(callback).get_state is Callback.get_state:
            continue
        if callback.name in names:
            raise ConfigurationError(
                f"Two callbacks would keep their state under the same name, {callback.name!r}: "
                "give each another `name`, by super().__init__(name=...) or as an attribute of its class."
            )
        names.add(callback.name)


def _check_metric_paths(callbacks: Sequence[Callback], of_every_run: list[str]) -> None:
    written = [*of_every_run, *(path for callback in callbacks for path in callback.metric_paths())]
    for callback, path in _without_writer(callbacks, written):
        raise ConfigurationError(
            f"{called(callback)} needs the metric path {path!r}, which nobody writes.{_meant(path, written)} "
            f"Written are {', '.join(sorted(written))}. Correct the path, add the callback that writes it, or, "
            "if that is a callback of your own, name the path in its metric_paths()."
        )


def check_known_names(callbacks: Sequence[Callback], level: str, names: Sequence[str]) -> None:
    """Refuse a callback that needs a metric of a level which nobody writes, now that the host's are known.

    Args:
        callbacks: mlpug's own.
        level: where the host writes by itself, such as ``"validation.dataset"``.
        names: what it writes there.

    Raises:
        ConfigurationError: the metric is neither among them, nor written by another callback.
    """
    published = sorted(f"{level}.{name}" for name in names)
    written = [*published, *(path for callback in callbacks for path in callback.metric_paths())]
    for callback, path in _without_writer(callbacks, written):
        if path.startswith(f"{level}."):
            raise ConfigurationError(
                f"{called(callback)} needs the metric path {path!r}, which nobody writes.{_meant(path, written)} "
                f"Published in {level!r} are {', '.join(published) or 'no metrics'}. Correct the path, or log the "
                "metric by that name."
            )


def _without_writer(callbacks: Sequence[Callback], written: Sequence[str]) -> Iterator[tuple[Callback, str]]:
    for callback in callbacks:
        for path in callback.required_metric_paths():
            if not any(is_within(path, other) or is_within(other, path) for other in written):
                yield callback, path


def _meant(path: str, written: Sequence[str]) -> str:
    """A guess; also of who writes a name of the host's world, such as val_loss, in the place of a path."""
    native = by_native_name(written).get(path)
    return did_you_mean_path(path, written) if native is None else f" Did you mean {native}?"


def check_hooks(callback: Callback) -> None:
    """Refuse a callback with a misspelled hook, or with one that can't be called as hooks are.

    >>> class Misspelled(Callback):
    ...     def on_epoch_end(self, logs): ...
    >>> check_hooks(Misspelled())
    Traceback (most recent call last):
    mlpug.errors.ConfigurationError: Misspelled.on_epoch_end is not a hook, so it would never be called. ...
    """
    for name in dir(callback):
        if name.startswith("on_") and name not in HOOKS and callable(getattr(callback, name)):
            hint = did_you_mean(name, HOOKS, cutoff=0.5)
            raise ConfigurationError(
                f"{called(callback, name)} is not a hook, so it would never be called.{hint} "
                f"The hooks are {', '.join(HOOKS)}; give a method of another purpose another name than on_..."
            )
    for name in HOOKS:
        expected = list(inspect.signature(getattr(Callback, name)).parameters)[1:]
        outcome = dict.fromkeys(expected[1:], False) if name == "on_training_ended" else {}
        if inspect.iscoroutinefunction(getattr(callback, name)):
            raise ConfigurationError(
                f"{called(callback, name)} is async, so it would never run: make it a plain method."
            )
        positional = expected[: len(expected) - len(outcome)]
        try:
            inspect.signature(getattr(callback, name)).bind(*positional, **outcome)
        except TypeError as error:
            raise ConfigurationError(
                f"{called(callback, name)} must take ({', '.join(['self', *expected])}): {error}."
            ) from error
