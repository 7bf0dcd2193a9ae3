"""The logs object: one nested mapping whose values are computed when they are first read."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from functools import partial
from typing import Any


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

    __slots__ = ("_values",)

    def __init__(self, **values: Any) -> None:
        self._values: dict[str, Any] = values

    def __getitem__(self, name: str) -> Any:
        value = self._values[name]
        if type(value) is Lazy:
            value = self._values[name] = value()
        return value

    def __setitem__(self, name: str, value: Any) -> None:
        self._values[name] = value

    def __delitem__(self, name: str) -> None:
        del self._values[name]

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

        >>> logs = Logs(current=Logs(validation=Logs(dataset=Logs(loss=0.25))))
        >>> logs.at("validation.dataset.loss")
        0.25
        >>> logs.at("validation.dataset.accuracy") is None
        True
        """
        value: Any = self["current"]
        for name in path.split("."):
            if not hasattr(value, "keys") or name not in value:
                return None
            value = value[name]
        return value

    def snapshot(self) -> dict[str, Any]:
        """A plain nested dict of everything, every value read: safe to keep while training goes on.

        >>> Logs(batch=Logs(loss=Lazy(lambda: 0.5))).snapshot()
        {'batch': {'loss': 0.5}}
        """
        return {name: value.snapshot() if isinstance(value, Logs) else value for name, value in self.items()}
