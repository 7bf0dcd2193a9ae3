"""The logs object: one nested mapping whose values are computed when they are first read."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from functools import partial
from typing import Any

from mlpug.errors import ConfigurationError, MlpugWarning
from mlpug.suggestions import did_you_mean_path, misspelled


class Lazy(partial[Any]):
    """A value that is computed when it is first read from a `Logs`: what a function gives for some arguments.

    >>> logs = Logs(loss=Lazy(min, 0.5, 1.0))
    >>> logs["loss"]
    0.5
    """

    __slots__ = ()


class Logs(MutableMapping[str, Any]):
    """A dict whose `Lazy` values are computed once, when somebody reads them.

    Iterating over names computes nothing; reading values, ``items()`` and ``repr`` do.

    >>> logs = Logs(current=Logs(training=Logs(batch=Logs(loss=Lazy(lambda: 0.5)))))
    >>> logs["current"]["training"]["batch"]["loss"]
    0.5
    """

    __slots__ = ("_gone", "_known", "_values")

    def __init__(self, **values: Any) -> None:
        self._values: dict[str, Any] = values
        self._gone: set[str] = set()  # names that were here before
        self._known: KnownPaths | None = None

    def __getitem__(self, name: str) -> Any:
        value = self._values[name]
        if type(value) is Lazy:
            value = self._values[name] = value()
        return value

    def __setitem__(self, name: str, value: Any) -> None:
        self._values[name] = value

    def __delitem__(self, name: str) -> None:
        del self._values[name]
        self._gone.add(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: object) -> bool:
        return name in self._values

    def update(self, *values: Any, **named: Any) -> None:
        """As of a dict, and not by the inherited way, item by item."""
        self._values.update(*values, **named)

    def clear(self) -> None:
        """Forget everything; nothing is computed, as it would be by the inherited way of taking item by item."""
        self._gone.update(self._values)
        self._values.clear()

    def __repr__(self) -> str:
        return f"Logs({self.snapshot()!r})"

    def child(self, name: str) -> Logs:
        """The `Logs` under this name, made when it isn't there yet.

        >>> Logs().child("training").child("batch")
        Logs({})
        """
        if name not in self._values:
            self._values[name] = Logs()
        below: Logs = self._values[name]
        return below

    def at(self, path: str) -> Any:
        """The value at a metric path, which starts below ``current``, or None where there is none yet.

        Where the host trainer writes what a ported model logs, any name may come: one that looks like a misspelled one
        of those that came is told in a warning.

        Raises:
            ConfigurationError: in a run, where nobody writes that path.

        >>> logs = Logs(current=Logs(validation=Logs(dataset=Logs(loss=0.25))))
        >>> logs.at("validation.dataset.loss")
        0.25
        >>> logs.at("validation.dataset.accuracy") is None
        True
        """
        value: Any = self["current"]
        for name in path.split("."):
            if not hasattr(value, "keys") or name not in value:
                if self._known is not None and isinstance(value, Logs) and name not in value._gone:
                    self._known.check(path, self["current"])
                return None
            value = value[name]
        return value

    def declare(self, paths: Iterable[str], known_before: Iterable[str] = ()) -> None:
        """From now on `at` refuses a path that is none of these, and was never written.

        Args:
            paths: that somebody writes, or beginnings of them.
            known_before: what `undeclared` gave in the run that goes on here.
        """
        self._known = KnownPaths(paths, known_before)

    def undeclared(self) -> list[str]:
        """What was written, isn't there now, and was never declared: `at` gives None for it."""
        if self._known is None:
            return []
        gone = {path for path in _gone_in(self["current"], "") if not self._known.has(path)}
        return sorted(self._known.undeclared | gone)

    def snapshot(self) -> dict[str, Any]:
        """A plain nested dict of everything, every value read: safe to keep while training goes on.

        >>> Logs(batch=Logs(loss=Lazy(lambda: 0.5))).snapshot()
        {'batch': {'loss': 0.5}}
        """
        return {name: value.snapshot() if isinstance(value, Logs) else value for name, value in self.items()}


class KnownPaths:
    """The metric paths of a run: those that somebody says to write, and those that were written all the same.

    Args:
        declared: paths, or beginnings of them.
        undeclared: what was written besides, in the run that goes on here.

    >>> KnownPaths(["training.batch.loss"]).check("training.batch.los", current=Logs())
    Traceback (most recent call last):
    mlpug.errors.ConfigurationError: logs.at('training.batch.los'): nobody writes that path. Did you mean ...
    """

    def __init__(self, declared: Iterable[str], undeclared: Iterable[str] = ()) -> None:
        self._declared = sorted(set(declared))
        self.undeclared = set(undeclared)
        self._told: set[str] = set()

    def has(self, path: str) -> bool:
        """Whether it is declared, begins one that is, or lies within a metric."""
        return any(is_within(path, other) or is_within(other, path) for other in self._declared)

    def check(self, path: str, current: Logs) -> None:
        """Refuse a path that leads nowhere, and of which nobody knows.

        Where a callback has made a level of its own without a word, any name may come there.
        """
        level = ".".join(path.split(".")[:2])
        for own in (level, level.partition(".")[0]):
            if _leads_to_logs(current, own) and not self.has(own):
                return
        if self.has(path) or path in self.undeclared:
            self._warn_of_typo(path, level, current)
            return
        known = sorted({*self._declared, *_paths_in(current, "")})
        raise ConfigurationError(
            f"logs.at({path!r}): nobody writes that path.{did_you_mean_path(path, known)} Known are "
            f"{', '.join(known)}. Correct the path, add the callback that writes it, or, if that is a callback of your "
            "own, name the path in its metric_paths()."
        )

    def _warn_of_typo(self, path: str, level: str, current: Logs) -> None:
        """Warn once of a path where the host may write any name, and has written one that differs by a slip of the pen.

        It may yet come, so that it is no error.
        """
        written = _logs_at(current, level) if level in self._declared else None
        name = path.removeprefix(f"{level}.")
        if written is None or name == path or path in self._told:
            return
        meant = misspelled(name, [*written, *written._gone])
        if meant is not None:
            self._told.add(path)
            warnings.warn(
                f"logs.at({path!r}): nobody has written that path so far, and {level}.{meant} was written. Did you "
                f"mean {level}.{meant}? The value is None as long as nobody writes it.",
                MlpugWarning,
                stacklevel=4,
            )


def is_within(path: str, other: str) -> bool:
    """Whether a path is another one or lies below it: a metric may itself be a dict.

    >>> is_within("training.batch.f1.cat", "training.batch.f1"), is_within("training.batch.f1", "training.batch.f")
    (True, False)
    """
    return path == other or path.startswith(other + ".")


def _logs_at(current: Logs, level: str) -> Logs | None:
    found: Any = current
    for name in level.split("."):
        found = found[name] if isinstance(found, Logs) and name in found else None
    return found if isinstance(found, Logs) else None


def _leads_to_logs(current: Logs, path: str) -> bool:
    value: Any = current
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return False
        value = value[name]
    return isinstance(value, Mapping)


def _paths_in(logs: Logs, before: str) -> Iterator[str]:
    """Of all values; nothing is computed."""
    for name, value in logs._values.items():
        if isinstance(value, Logs):
            yield from _paths_in(value, f"{before}{name}.")
        else:
            yield before + name


def _gone_in(logs: Logs, before: str) -> Iterator[str]:
    yield from (before + name for name in logs._gone if name not in logs)
    for name, value in logs._values.items():
        if isinstance(value, Logs):
            yield from _gone_in(value, f"{before}{name}.")
