"""mlpug's metrics as callbacks of the host trainer look for them: under their own world's names, and under paths."""

from __future__ import annotations

import copy
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

from mlpug.callbacks.numbers import numbers_in
from mlpug.errors import ConfigurationError
from mlpug.logs import Logs, is_within
from mlpug.suggestions import did_you_mean, did_you_mean_path

_LEVELS_OF_TRAINING = ("dataset", "epoch", "sliding_window", "batch")  # from the widest
_FLAGS = ("did_update_model",)  # no metric, though it stands among them


def native_name(path: str) -> str | None:
    """What a metric is called in the host's world; None where it isn't known there.

    >>> native_name("validation.dataset.loss"), native_name("test.dataset.loss"), native_name("training.batch.loss")
    ('val_loss', 'test_loss', 'loss')
    >>> native_name("training_params.batch.lr") is None
    True
    """
    set_name, _, below = path.partition(".")
    level, _, metric = below.partition(".")
    if not metric or metric in _FLAGS or set_name == "training_params":
        return None
    if set_name == "training":
        return metric if level in _LEVELS_OF_TRAINING else None
    if level != "dataset":
        return None
    return f"val_{metric}" if set_name == "validation" else f"{set_name}_{metric}"


def by_native_name(paths: Iterable[str]) -> dict[str, str]:
    """The path that each native name stands for: where training has several, that of the widest level.

    >>> by_native_name(["training.batch.loss", "training.sliding_window.loss", "validation.dataset.loss"])
    {'loss': 'training.sliding_window.loss', 'val_loss': 'validation.dataset.loss'}
    """
    found: dict[str, str] = {}
    for path in paths:
        name = native_name(path)
        if name is not None and (name not in found or _width(path) < _width(found[name])):
            found[name] = path
    return found


def _width(path: str) -> int:
    level = path.split(".")[1:2]
    return _LEVELS_OF_TRAINING.index(level[0]) if level and level[0] in _LEVELS_OF_TRAINING else 0


class NativeLogs(dict[str, Any]):
    """What a callback of the host trainer gets for its logs.

    A dict of what the host and native callbacks put into it, in which mlpug's metrics are found too, as they are in the
    logs at the moment of the look: under their paths and under their native names. What the dict itself holds comes
    first. To iterate shows native names only, of metrics that are numbers (of a tuple the first value counts).
    Nothing is computed, and nothing leaves the device, before somebody looks.

    Args:
        values: what the dict holds.
        logs: of the run; without them it is a dict like any other.
        convert: makes of a float what the host's callbacks expect.
        of_host: functions that compute what the host itself knows, by native name.
        within_epoch: whether iterating leaves out what isn't of training, as the host does at a batch's end.
        shows_own_only: whether iterating leaves out all of mlpug's, which a look by name finds all the same.
        hidden: native names under which nothing of mlpug's is found: the host publishes those itself, at its times.

    >>> logs = Logs(current=Logs(validation=Logs(dataset=Logs(loss=0.5))))
    >>> native = NativeLogs(logs=logs, of_host={"loss": lambda: 0.25})
    >>> dict(native), native["validation.dataset.loss"], native.get("accuracy")
    ({'loss': 0.25, 'val_loss': 0.5}, 0.5, None)
    """

    def __init__(
        self,
        values: Any = (),
        *,
        logs: Logs | None = None,
        convert: Callable[[float], Any] = float,
        of_host: Mapping[str, Callable[[], Any]] | None = None,
        within_epoch: bool = False,
        shows_own_only: bool = False,
        hidden: Container[str] = (),
    ) -> None:
        super().__init__(values)
        self._logs = Logs(current=Logs()) if logs is None else logs
        self._convert = convert
        self._of_host = of_host or {}
        self._within_epoch = within_epoch
        self._shows_own_only = shows_own_only
        self._hidden = hidden

    def __missing__(self, name: str) -> Any:
        if name in self._of_host:
            return self._converted(self._of_host[name]())
        path = self._path_of(name)
        if path is None:
            raise KeyError(name)
        return self._converted(self._logs.at(path))

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in self._of_host or self._path_of(name) is not None

    def get(self, name: str, default: Any = None) -> Any:
        """The value under a native name or a metric path."""
        try:
            return self[name]
        except KeyError:
            return default

    def __iter__(self) -> Iterator[str]:
        yield from super().__iter__()
        if self._shows_own_only:
            return
        for name in self._of_host:
            if not super().__contains__(name):
                yield name
        for name, path in by_native_name(self._paths()).items():
            is_taken = super().__contains__(name) or name in self._of_host
            is_shown = path.startswith("training.") or not self._within_epoch
            if is_shown and not is_taken and _number(self._logs.at(path)) is not None:
                yield name

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        return True  # `logs or {}` is how Keras's callbacks begin, and nothing is to be computed for that

    def keys(self) -> Any:
        """Those that iterating gives."""
        return dict.fromkeys(self).keys()

    def values(self) -> Any:
        """In the order of `keys`."""
        return self.copy().values()

    def items(self) -> Any:
        """In the order of `keys`."""
        return self.copy().items()

    def copy(self) -> dict[str, Any]:
        """A dict of what iterating gives now."""
        return {name: self[name] for name in self}

    def freeze(self) -> None:
        """Keep what is shown now, and look no more: for when the moment is over, and somebody may hold on to it."""
        self.update(self.items())
        self._logs, self._of_host = Logs(current=Logs()), {}

    def __deepcopy__(self, memo: dict[int, Any]) -> NativeLogs:
        """What the dict itself holds is copied; it shows the same run."""
        own = {name: copy.deepcopy(self[name], memo) for name in super().__iter__()}
        copied = NativeLogs(
            own,
            logs=self._logs,
            convert=self._convert,
            of_host=self._of_host,
            shows_own_only=self._shows_own_only,
            hidden=self._hidden,
        )
        copied._within_epoch = self._within_epoch
        return copied

    def __repr__(self) -> str:
        return repr(self.copy())

    def _path_of(self, name: object) -> str | None:
        """The path that a name stands for, where there is a value at it."""
        if not isinstance(name, str) or name in self._hidden:
            return None
        path = by_native_name(self._paths()).get(name, name)
        *levels, metric = path.split(".")
        value: Any = self._logs["current"]
        for level in levels:
            value = value[level] if isinstance(value, Mapping) and level in value else None
        return path if levels and isinstance(value, Mapping) and metric in value else None

    def _paths(self) -> Iterator[str]:
        current: Logs = self._logs["current"]
        for set_name in current:
            levels = current.child(set_name)
            if isinstance(levels, Logs):
                for level in levels:
                    metrics = levels.child(level)
                    if isinstance(metrics, Logs):
                        yield from (f"{set_name}.{level}.{metric}" for metric in metrics)

    def _converted(self, value: Any) -> Any:
        number = value if type(value) is float else _number(value)
        return value if number is None else self._convert(number)


def _number(value: Any) -> float | None:
    """The number that a value is, or begins with; None where it is none."""
    return next((number for names, number in numbers_in(value) if not names), None)


def check_monitors(
    callbacks: Sequence[Any], known_to_host: Iterable[str], paths: Iterable[str], beginnings: Iterable[str]
) -> None:
    """Refuse a native callback that monitors what nobody publishes.

    Args:
        callbacks: native ones; what one monitors is its attribute `monitor`.
        known_to_host: names of what the host publishes itself.
        paths: of mlpug's metrics.
        beginnings: of paths that the host writes by itself, whose metrics nobody knows beforehand.

    Raises:
        ConfigurationError: what is published is listed.

    >>> from types import SimpleNamespace
    >>> stopping = SimpleNamespace(monitor="val_los")
    >>> check_monitors([stopping], ["loss"], ["validation.dataset.loss"], [])
    Traceback (most recent call last):
    mlpug.errors.ConfigurationError: SimpleNamespace monitors 'val_los', which nobody publishes. ...
    """
    paths = list(paths)
    published = {*known_to_host, *by_native_name(paths)}
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if not isinstance(monitor, str) or monitor in published:
            continue
        if any(is_within(monitor, path) or is_within(path, monitor) for path in paths):
            continue
        if not any(_may_come_from(monitor, beginning) for beginning in beginnings):
            hint = did_you_mean(monitor, published) or did_you_mean_path(monitor, paths)
            raise ConfigurationError(
                f"{type(callback).__name__} monitors {monitor!r}, which nobody publishes. Published are "
                f"{', '.join(sorted(published)) or 'no names'}, and the paths {', '.join(sorted(paths))}. Correct the "
                f"name, or put the callback that writes the metric before it in the list.{hint}"
            )


def _may_come_from(monitor: str, beginning: str) -> bool:
    """Whether a monitored name can be that of a metric below the beginning of a path."""
    if is_within(monitor, beginning):
        return True
    marked = native_name(f"{beginning}.\0" if "." in beginning else f"{beginning}.dataset.\0")
    return marked is not None and monitor.startswith(marked.removesuffix("\0"))
