"""Checks of arguments that many places share."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterable
from typing import Any, NoReturn, TypeVar

from mlpug.errors import ConfigurationError, DatasetError


def checked_count(name: str, value: object, at_least: int = 1) -> int:
    """The value, if it is a whole number of at least so much.

    >>> checked_count("num_epochs", 0)
    Traceback (most recent call last):
    mlpug.errors.ConfigurationError: num_epochs must be a whole number of at least 1, not 0.
    """
    try:
        count = None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        count = None
    if count is None or count < at_least:
        raise ConfigurationError(f"{name} must be a whole number of at least {at_least}, not {value!r}.")
    return count


Function = TypeVar("Function")


def checked_function(name: str, function: Function) -> Function:
    """The function, if it can be called, or None.

    >>> checked_function("log_condition_func", True)
    Traceback (most recent call last):
    mlpug.errors.ConfigurationError: log_condition_func must be a function, not True.
    """
    if function is not None and not callable(function):
        raise ConfigurationError(f"{name} must be a function, not {function!r}.")
    return function


def checked_dataset(name: str, dataset: Any, more_than_once: bool = False) -> Iterable[Any]:
    """The dataset, if it can be iterated (again and again, where that is needed) and isn't known to be empty.

    >>> checked_dataset("training dataset", 3)
    Traceback (most recent call last):
    mlpug.errors.ConfigurationError: The training dataset must be an iterable of batches, not a int. ...
    """
    is_class = isinstance(dataset, type)
    if is_class or not (hasattr(dataset, "__iter__") or hasattr(dataset, "__getitem__")):
        what = f"the class {dataset.__name__}" if is_class else f"a {type(dataset).__name__}"
        raise ConfigurationError(
            f"The {name} must be an iterable of batches, not {what}. "
            "Pass a data loader, a list of batches, a generator, or any other object that iter() takes."
        )
    if more_than_once and hasattr(dataset, "__next__"):
        raise ConfigurationError(
            f"The {name} is a {type(dataset).__name__}, which can be read only once, and it is needed again and "
            "again. Pass a data loader, a list, or another object that gives a fresh iterator each time."
        )
    if known_length(dataset) == 0:
        raise DatasetError(f"The {name} is empty: it has no batches. Check the data, and whether drop_last drops it.")
    checked: Iterable[Any] = dataset
    return checked


def known_length(dataset: Any) -> int | None:
    """The number of batches, or None where the dataset can't tell.

    >>> known_length([1, 2]), known_length(iter([1, 2]))
    (2, None)
    """
    try:
        return len(dataset)
    except (TypeError, NotImplementedError):  # what loaders of streams raise, though they have __len__
        return None


def check_training_call(call: Callable[..., Any], written_as: str, instead: str = "") -> None:
    """Refuse what can't be called as a training model is.

    Only what is called counts: a decorator's own arguments, and not those of what it wraps.

    Args:
        call: what will be called.
        written_as: how the user's own code names it, such as ``"TrainModel.forward"``.
        instead: the first thing to do about it, where that isn't to write other arguments.

    Raises:
        ConfigurationError: it takes other arguments, or none at all.

    >>> check_training_call(lambda batch: 0.5, "TrainModel.forward")
    Traceback (most recent call last):
    mlpug.errors.ConfigurationError: The training model is called as ... TrainModel.forward(batch) ...
    """
    try:
        signature = inspect.signature(call, follow_wrapped=False)
    except (TypeError, ValueError):  # what is compiled may not tell
        return
    try:
        signature.bind(None, evaluate_settings=None, inference_mode=False)
        return
    except TypeError as error:
        came = f"{written_as}{signature.replace(return_annotation=inspect.Signature.empty)} can't be called so: {error}"
    raise_not_callable(came, written_as, instead)


def raise_not_callable(came: str, written_as: str, instead: str = "") -> NoReturn:
    """Say what a training model must be, in the words of `check_training_call`.

    >>> raise_not_callable("Net has no forward", "Net.forward")
    Traceback (most recent call last):
    mlpug.errors.ConfigurationError: The training model is called as ... and Net has no forward. Write forward(self, ...
    """
    method = written_as.rpartition(".")[2]
    cure = f"rite {method}(self, batch_data, evaluate_settings=None, inference_mode=False), which returns the loss."
    raise ConfigurationError(
        "The training model is called as training_model(batch_data, evaluate_settings=..., inference_mode=...), and "
        f"{came}. {f'{instead}, or w' if instead else 'W'}{cure}"
    )
