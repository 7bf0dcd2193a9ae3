"""The numbers in the logs, and the paths that a callback was asked to show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from numbers import Real
from typing import Any

from mlpug.errors import ConfigurationError


def numbers_in(value: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], float | None]]:
    """The numbers in a value, each with the names that lead to it; None in the place of what is no number.

    Of a tuple the first value counts; a dict has as many as there are in it.

    >>> list(numbers_in({"loss": 0.5, "f1": {"cat": (1, "details")}, "note": "good"}))
    [(('loss',), 0.5), (('f1', 'cat'), 1.0), (('note',), None)]
    """
    if isinstance(value, tuple) and value:
        value = value[0]
    if isinstance(value, Mapping):
        for name, below in value.items():
            yield from numbers_in(below, (*names, str(name)))
    elif isinstance(value, Real) or getattr(value, "shape", None) == ():  # an array without axes
        yield names, float(value)
    else:
        yield names, None


def named_paths(metric_paths: Any) -> list[tuple[str | None, str]]:
    """(name, metric path) of what to show; no name where only the path was given.

    Args:
        metric_paths: a list of paths, or a dict of them by the names to show them under.

    Raises:
        ConfigurationError: something else.

    >>> named_paths({"cost": "training.batch.loss"}), named_paths(["training.batch.loss"])
    ([('cost', 'training.batch.loss')], [(None, 'training.batch.loss')])
    """
    pairs: list[tuple[Any, Any]] = [(None, None)]  # what is no path either
    if isinstance(metric_paths, Mapping):
        pairs = list(metric_paths.items())
    elif isinstance(metric_paths, Sequence) and not isinstance(metric_paths, str):
        pairs = [(None, path) for path in metric_paths]
    for name, path in pairs:
        if not (isinstance(path, str) and path) or not (name is None or isinstance(name, str)) or name == "":
            raise ConfigurationError(
                'metric_paths must be a list of metric paths such as ["training.batch.loss"], or a dict of them by the '
                f"names to show them under, not {metric_paths!r}."
            )
    return pairs
