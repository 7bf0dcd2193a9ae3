"""What can be reached from a Python object, such as a dataset: attributes, containers, functions and what they hold.

Random generators sit wherever a script has put them: in a transform, in the closure of a `collate_fn`, in a global that
a method draws from. Each is found under a path that names its place, the same in each run of the script.
"""

from __future__ import annotations

import sys
import sysconfig
import types
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from typing import Any

import numpy as np

MAX_OBJECTS = 20_000  # looked into one by one: some 0.1 s
MAX_PLAIN_DEPTH = 4  # of containers of containers that are looked through as a whole
_MANY = 32  # items from which a container is looked through as a whole first

_PLAIN = {int, float, complex, str, bytes, bytearray, bool, type(None), range, slice, np.ndarray}
_CONTAINERS = {list, tuple, deque, dict, set, frozenset}
# Of these packages nothing is looked into: they hold data or the run itself, and no generator of the user's.
_CLOSED = {
    *("mlpug", "mlpug_keras", "mlpug_lightning", "lightning", "lightning_fabric", "pytorch_lightning"),
    *("PIL", "h5py", "jaxlib", "pandas", "polars", "pyarrow"),
    *("concurrent", "datetime", "decimal", "enum", "fractions", "importlib", "logging", "multiprocessing", "pathlib"),
    *("threading", "tqdm", "uuid", "weakref"),
}
# Of TensorFlow's, these are looked into; its graphs and tensors aren't.
_OPEN_IN_TENSORFLOW = ("tensorflow.python.data.", "tensorflow.python.module.")
_LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))

Steps = tuple[str, ...]  # from the root: (".dataset", ".parts", "[0]")


@dataclass(frozen=True, slots=True)
class Reached:
    """What was found."""

    found: dict[Steps, Any]  # nearest first
    is_whole: bool  # whether everything was looked at
    size: int  # how many objects were


def reachable(
    root: Any,
    is_wanted: Callable[[type], bool],
    is_left_out: Callable[[type], bool] | None = None,
    most: int = MAX_OBJECTS,
    most_items: int = sys.maxsize,
) -> Reached:
    """What is wanted of all that can be reached, by the steps that lead to it.

    Args:
        root: where to begin.
        is_wanted: whether objects of this type are; they are not looked into.
        is_left_out: whether objects of this type aren't looked into.
        most: how many objects to look into.
        most_items: containers of more aren't looked into.

    >>> noise = types.SimpleNamespace(scales=[1, 0.5], source={"own": np.random.default_rng(0)})
    >>> reachable(noise, lambda kind: issubclass(kind, np.random.Generator)).found
    {('.source', "['own']"): Generator(PCG64) at 0x...}
    """
    return _Walk(is_wanted, is_left_out or (lambda _: False), most_items).through(root, most)


def resolve(root: Any, steps: Steps) -> Any:
    """What these steps lead to now; None where they lead nowhere.

    >>> resolve({"a": [1, types.SimpleNamespace(b=2)]}, ("['a']", "[1]", ".b"))
    2
    """
    value = root
    for step in steps:
        children = chain(_children(value), _of_class(type(value)))
        value = next((child for name, child in children if name == step), None)
    return value


class _Answers(dict[type, bool]):
    """To a question about types, each asked once."""

    def __init__(self, ask: Callable[[type], bool]) -> None:
        super().__init__()
        self._ask = ask

    def __missing__(self, kind: type) -> bool:
        self[kind] = self._ask(kind)
        return self[kind]


class _Walk:
    """One walk, from the nearest to the farthest."""

    def __init__(self, is_wanted: Callable[[type], bool], is_left_out: Callable[[type], bool], most_items: int) -> None:
        self._most_items = most_items
        self._is_wanted = _Answers(is_wanted)
        self._is_closed = _Answers(lambda kind: is_left_out(kind) or _is_closed(kind))
        self._seen: dict[int, Any] = {}  # holds what it has seen, or an id could come again
        self._classes: set[type] = set()
        self._waiting: deque[tuple[Steps, Any]] = deque()
        self._size = 0

    def through(self, root: Any, most: int) -> Reached:
        found: dict[Steps, Any] = {}
        self._see((), root)
        for _ in range(most):
            if not self._waiting:
                break
            steps, value = self._waiting.popleft()
            kind = type(value)
            if self._is_wanted[kind]:
                found[steps] = value
                continue
            for step, child in _children(value):
                self._see((*steps, step), child)
            if kind not in self._classes:  # what its class has is the same for all of them
                self._classes.add(kind)
                for step, child in _of_class(kind):
                    self._see((*steps, step), child)
        return Reached(found, not self._waiting, self._size)

    def _see(self, steps: Steps, value: Any) -> None:
        kind = type(value)
        self._size += 1
        if kind in _PLAIN or id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if self._is_wanted[kind] or not (
            self._is_closed[kind] or (kind in _CONTAINERS and self._has_only_plain(value))
        ):
            self._waiting.append((steps, value))

    def _has_only_plain(self, container: Any) -> bool:
        """Whether a container holds nothing to look into: a list of a million names is done in 0.1 s."""
        if len(container) > self._most_items:
            return True
        if len(container) < _MANY:
            return False
        values: Iterable[Any] = [container]
        for _ in range(MAX_PLAIN_DEPTH):
            items = list(chain.from_iterable(each.values() if type(each) is dict else each for each in values))
            self._size += len(items)
            kinds = {kind for kind in set(map(type, items)) - _PLAIN if not self._is_closed[kind]}
            if not kinds:
                return True
            if not kinds <= _CONTAINERS:
                return False
            values = [each for each in items if type(each) in kinds]
        return False


def _is_closed(kind: type) -> bool:
    """Whether nothing is looked for in objects of this type."""
    if issubclass(kind, (type, types.ModuleType, np.ndarray, np.generic, np.dtype, BaseException)):
        return True
    torch = sys.modules.get("torch")
    if torch is not None and issubclass(kind, (torch.Tensor, torch.dtype, torch.device)):
        return True
    module = getattr(kind, "__module__", None) or ""
    package = module.partition(".")[0]
    if package == "tensorflow":
        return not module.startswith(_OPEN_IN_TENSORFLOW)
    if module == "torch.utils.data.dataloader" and hasattr(kind, "__next__"):
        return True  # an iterator, which lives for an epoch
    return package in _CLOSED


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    """What an object of any kind holds of its own, and the step to each."""
    if isinstance(value, dict):
        yield from ((f"[{key!r}]", item) for key, item in list(value.items()) if _has_lasting_name(key))
    elif isinstance(value, (list, tuple, deque)):
        yield from ((f"[{index}]", item) for index, item in enumerate(list(value)))
    elif isinstance(value, (set, frozenset)):
        if len(value) == 1:  # the order of more differs from run to run
            yield "{}", next(iter(value))
    elif isinstance(value, types.FunctionType):
        yield from _of_function(value)
    elif isinstance(value, types.MethodType):
        yield from ((".__self__", value.__self__), (".__func__", value.__func__))
    elif isinstance(value, partial):
        yield from ((".func", value.func), (".args", value.args), (".keywords", value.keywords))
    elif isinstance(value, property):
        yield ".fget", value.fget
    elif isinstance(value, (staticmethod, classmethod)):
        yield ".__func__", value.__func__
    yield from attributes_of(value)


def _has_lasting_name(key: Any) -> bool:
    return type(key) in _PLAIN or isinstance(key, tuple)


def attributes_of(value: Any) -> Iterator[tuple[str, Any]]:
    """Those that an object has of its own, in a dict or in slots."""
    try:
        own = object.__getattribute__(value, "__dict__")
    except AttributeError:
        own = {}
    if isinstance(own, dict):
        yield from ((f".{name}", item) for name, item in list(own.items()))
    for each in type(value).__mro__:
        if "__slots__" in each.__dict__:
            yield from _in_slots(each, value)


def _in_slots(kind: type, value: Any) -> Iterator[tuple[str, Any]]:
    for name, member in vars(kind).items():
        if isinstance(member, types.MemberDescriptorType):
            try:
                yield f".{name}", member.__get__(value)
            except AttributeError:  # it has no value yet
                continue


def _of_class(kind: type) -> Iterator[tuple[str, Any]]:
    """What a class of the script's has: values that its objects share, and methods, which may name globals."""
    for each in kind.__mro__:
        if not is_of_library(each.__module__):
            yield from ((f".{name}", item) for name, item in vars(each).items() if name not in _OF_CLASSES)


_OF_CLASSES = ("__dict__", "__weakref__", "__module__", "__doc__", "__annotations__", "_abc_impl")


def _of_function(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """What it holds: its closure, its defaults, and the globals that it names where it isn't a library's."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f".{name}", cell.cell_contents
        except ValueError:  # it has no value yet
            continue
    yield from ((f".__defaults__[{index}]", item) for index, item in enumerate(function.__defaults__ or ()))
    yield from ((f".{name}", item) for name, item in (function.__kwdefaults__ or {}).items())
    if is_of_library(function.__module__):
        return
    names = list(_names_in(function.__code__))
    for name in names:
        item = function.__globals__.get(name)
        if not isinstance(item, types.ModuleType):
            yield f".{name}", item
        elif not is_of_library(item.__name__):
            yield from ((f".{name}.{within}", vars(item)[within]) for within in names if within in vars(item))


def _names_in(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_in(constant)


@cache
def is_of_library(module: str | None) -> bool:
    """Whether it is installed, or built into Python: what it keeps in globals isn't the script's."""
    if module is None:
        return True
    if module == "__main__":
        return False
    loaded = sys.modules.get(module)
    file = getattr(loaded, "__file__", None)
    return file is None or file.startswith(_LIBRARIES) or module.partition(".")[0] in _CLOSED
