"""What the torchmetrics objects of a LightningModule have seen, which torch's state dict leaves out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import torch
import torchmetrics

from mlpug.datasets.random_states import is_same_plain
from mlpug.datasets.reachable import is_of_library
from mlpug.plain import from_plain, to_plain
from mlpug_lightning.arrays import leaf_from_plain, leaf_to_plain

_EXAMPLE = torchmetrics.SumMetric()
# Attributes that any metric has, for torch and torchmetrics themselves.
_OF_ANY = vars(_EXAMPLE).keys() | vars(torch.nn.ModuleList()).keys()
_COUNT = "_update_count"


class MetricStates:
    """The states of a module's metrics as plain data.

    A metric says itself what its state is. Installed wrappers, such as torchmetrics' `MinMaxMetric` and `Running`, have
    more in plain attributes: those that have changed since the script made them are kept too. A `MetricTracker` makes a
    metric for each step that it is told of.

    Args:
        module: the user's.
    """

    def __init__(self, module: torch.nn.Module) -> None:
        self._module = module
        self._made: dict[str, dict[str, Any]] = {}

    def note(self) -> None:
        """Before training starts, and before anything of a checkpoint is given back: what the script has made."""
        self._made = {path: _plain(attributes_of(part)) for path, part in _holders(self._module)}

    def state(self) -> dict[str, Any]:
        """Of metrics and trackers, by their paths."""
        metrics, trackers = {}, {}
        for path, part in _holders(self._module):
            made, now = self._made.get(path, {}), _plain(attributes_of(part))
            changed = {
                name: each for name, each in now.items() if name not in made or not is_same_plain(each, made[name])
            }
            if isinstance(part, torchmetrics.MetricTracker):
                trackers[path] = {"length": len(part), "attributes": changed}
            else:
                values = {name: getattr(part, name) for name in part._defaults}
                metrics[path] = {"values": _plain(values), "update_count": part._update_count, "attributes": changed}
        return {"metrics": metrics, "trackers": trackers}


def load_metrics(module: torch.nn.Module, state: Mapping[str, Any]) -> None:
    """Give back what `MetricStates.state` gave; a file of an earlier mlpug has no trackers, nor attributes."""
    for path, saved in state.get("trackers", {}).items():
        tracker = dict(module.named_modules()).get(path)  # one in another is there when that was given back
        if isinstance(tracker, torchmetrics.MetricTracker):
            set_length(tracker, saved["length"])
            _set(tracker, saved["attributes"], torch.device("cpu"))
    metrics = dict(_holders(module))
    for path, saved in state["metrics"].items():
        metric = metrics.get(path)
        if isinstance(metric, torchmetrics.Metric):
            _set(metric, saved["values"], metric.device)
            _set(metric, saved.get("attributes", {}), metric.device)
            metric._update_count, metric._computed = saved["update_count"], None


class KeptMetrics:
    """Keeps what metrics have seen as it was at a moment; they may add in place.

    Args:
        module: the user's.
        copies_lists: whether lists may become shorter; else they only grow, and their length is enough.
    """

    def __init__(self, module: torch.nn.Module, copies_lists: bool) -> None:
        parts = [part for _, part in _holders(module)]
        self._trackers = [part for part in parts if isinstance(part, torchmetrics.MetricTracker)]
        of_trackers = {id(part) for tracker in self._trackers for part in tracker.modules()}
        self._others = [part for part in parts if id(part) not in of_trackers]
        self._copies_lists = copies_lists
        self._lengths: list[int] = []
        self._states: list[tuple[Any, dict[str, Any], dict[str, Any]]] = []

    def keep(self) -> None:
        """Take it."""
        self._lengths = [len(tracker) for tracker in self._trackers]
        parts = [*self._others, *(part for tracker in self._trackers for _, part in _holders(tracker))]
        self._states = [(part, self._values(part), _copy(attributes_of(part))) for part in parts]

    def put_back(self) -> None:
        """Give it back."""
        for tracker, length in zip(self._trackers, self._lengths, strict=True):
            set_length(tracker, length)
        for part, values, attributes in self._states:
            for name, value in values.items():
                if isinstance(value, int) and name != _COUNT:
                    del getattr(part, name)[value:]
                else:
                    setattr(part, name, _copy(value))
            for name, value in attributes.items():
                setattr(part, name, _copy(value))
            if values:
                part._computed = None

    def _values(self, part: Any) -> dict[str, Any]:
        if not isinstance(part, torchmetrics.Metric):
            return {}
        values: dict[str, Any] = {}
        for name in part._defaults:
            value = getattr(part, name)
            is_length = isinstance(value, list) and not self._copies_lists
            values[name] = len(value) if is_length else _copy(value)
        return {**values, _COUNT: part._update_count}


def attributes_of(part: Any) -> dict[str, Any]:
    """Plain attributes of a metric or a tracker that an installed class has, beside the state that it declares.

    What a class of the script's own changes in itself isn't kept: a warning names it.
    """
    declared = part._defaults if isinstance(part, torchmetrics.Metric) else ()
    kind: Any = type(part)
    names = _names_in_libraries(kind)
    own = {name: value for name, value in vars(part).items() if name not in _OF_ANY and name not in declared}
    return {name: value for name, value in own.items() if name in names and _is_plain(value)}


@cache
def _names_in_libraries(kind: type) -> frozenset[str]:
    """What the code of a class, as far as it is installed, calls by name."""
    functions = [each for base in kind.__mro__ if is_of_library(base.__module__) for each in vars(base).values()]
    return frozenset(name for each in functions for name in getattr(getattr(each, "__code__", None), "co_names", ()))


def set_length(tracker: Any, length: int) -> None:
    """Let a tracker have as many metrics: what more it has is dropped, what it lacks is made as it makes them."""
    while len(tracker) > length:
        tracker._modules.popitem()
    while len(tracker) < length:
        tracker.increment()


def _holders(module: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    for path, part in module.named_modules():
        if isinstance(part, (torchmetrics.Metric, torchmetrics.MetricTracker)):
            yield path, part


def _set(part: Any, saved: Mapping[str, Any], device: torch.device) -> None:
    for name, value in from_plain(saved, leaf_from_plain).items():
        setattr(part, name, _moved(value, device))


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(_moved(each, device) for each in value)
    if isinstance(value, dict):
        return {name: _moved(each, device) for name, each in value.items()}
    return value.to(device) if isinstance(value, torch.Tensor) else value


def _copy(value: Any) -> Any:
    """Of a list's tensors none: they are replaced, and never changed."""
    if isinstance(value, dict):
        return {name: _copy(each) for name, each in value.items()}
    if isinstance(value, torch.Tensor):
        return value.clone()
    return list(value) if isinstance(value, list) else value


def _plain(tree: Any) -> Any:
    return to_plain(tree, leaf_to_plain)


def _is_plain(value: Any) -> bool:
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    if type(value) is dict:
        return all(type(name) is str and _is_plain(each) for name, each in value.items())
    return value is None or type(value) in (bool, int, float, str, torch.Tensor)
