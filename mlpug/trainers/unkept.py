"""Names what a run changes of the script's objects, and no checkpoint keeps."""

from __future__ import annotations

import inspect
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from mlpug.adapter import Adapter, Holder
from mlpug.callbacks.callback import Callback, called
from mlpug.datasets import DrawnByHost, Epochs
from mlpug.datasets.reachable import attributes_of, is_of_library, reachable
from mlpug.errors import MlpugWarning
from mlpug.model_checkpoint import shortened
from mlpug.trainers.class_code import made_again, names_of_libraries, set_as_epochs_start
from mlpug.trainers.script_reads import ScriptReads
from mlpug.trainers.values import Values

MOST_ATTRIBUTES = 20_000  # that are looked at
_MOST_OBJECTS = 2000  # in which objects of the script's are looked for, where a holder's class isn't
_MOST_ITEMS = 100  # of a container
_MOST_NAMES = 20  # in the message, for each cure
_MOST_STEPS = 8  # from a holder to an object of the script's that it holds

Place = tuple[str, str]  # of an attribute: its name in the message, and what keeps it
Attribute = tuple[Place, tuple[type, str], bytes | None]  # the class and name of it; what tells its value from others


class Unkept:
    """Compares the plain attributes of the script's objects with what they were when training started.

    Only objects whose classes are the script's own are looked at, and of them only what installed classes among their
    bases know nothing of.

    Args:
        holders: gives them; those that come first have what several lead to.
        to_host: the adapter's.
    """

    def __init__(self, holders: Callable[[], Iterable[Holder]], to_host: Callable[[Any], Any]) -> None:
        self._holders = holders
        self._to_host = to_host
        self._at_start: dict[Place, bytes | None] = {}
        self._was_whole = True  # the look at the start
        self._told: set[Place] = set()
        self._of_class: dict[type, tuple[set[str], set[str]]] = {}

    def begin(self) -> None:
        """Note what they are: all have heard that training starts, and a resumed run has its state."""
        look = _Look(self)
        self._at_start = {place: value for place, _, value in look.places()}
        self._was_whole = look.is_whole

    def tell(self, is_between_epochs: bool) -> None:
        """Name in a warning what is another now, once.

        Args:
            is_between_epochs: what each epoch sets as it starts doesn't matter now.
        """
        look = _Look(self, is_between_epochs)
        changed = {
            place: where
            for place, where, value in look.places()
            if value is not None
            and place not in self._told
            and value != self._at_start.get(place)
            and (self._was_whole or place in self._at_start)
        }
        if not changed:
            return
        reads = ScriptReads(look.objects, look.called)
        read = [place for place, (kind, name) in changed.items() if reads.reads(kind, name)]
        self._told.update(changed)
        if read:
            warnings.warn(_message(read, self._was_whole and look.is_whole), MlpugWarning, stacklevel=4)

    def holders(self) -> list[Holder]:
        """Those of now."""
        return [holder for holder in self._holders() if holder.value is not None]

    def to_host(self, tree: Any) -> Any:
        """Arrays of the backend as numpy's."""
        return self._to_host(tree)

    def not_the_scripts(self, kind: type, is_between_epochs: bool) -> set[str]:
        """Names of attributes that are a library's, or that are made again anyhow."""
        if kind not in self._of_class:
            self._of_class[kind] = names_of_libraries(kind) | made_again(kind), set_as_epochs_start(kind)
        always, between_epochs = self._of_class[kind]
        return always | between_epochs if is_between_epochs else always


def holders_of_run(adapter: Adapter, epochs: Epochs | DrawnByHost, callbacks: Sequence[Callback]) -> Iterator[Holder]:
    """What a run can change of the script's: what the adapter has, the training data, and mlpug's callbacks."""
    yield from adapter.holders()
    data = epochs.dataset
    if not isinstance(epochs, DrawnByHost):
        has_state = hasattr(data, "state_dict") and hasattr(data, "load_state_dict")
        yield Holder(type(data).__name__, data, _CURE_OF_DATA, is_kept=has_state)
    for callback in callbacks:
        kind = type(callback)
        # One that takes states itself notes what it did with them, which can't be in them.
        is_kept = kind.get_state is not Callback.get_state or kind.on_rest is not Callback.on_rest
        yield Holder(called(callback), callback, "get_state and set_state", is_kept=is_kept)


_CURE_OF_DATA = "state_dict and load_state_dict of the training dataset, as torchdata's StatefulDataLoader has them"


class _Look:
    """One look at all of them.

    Attributes:
        is_whole: whether it came to its end.
        called: objects of which somebody has a method.
    """

    def __init__(self, unkept: Unkept, is_between_epochs: bool = False) -> None:
        self._unkept = unkept
        self._is_between_epochs = is_between_epochs
        self._holders = unkept.holders()
        self._own = {id(holder.value) for holder in self._holders}
        self._seen: dict[int, Any] = {}  # holds what it has seen, or an id could come again
        self._values = Values(unkept.to_host, lambda value: id(value) in self._own or id(value) in self._seen)
        self._left = MOST_ATTRIBUTES
        self.is_whole = True
        self.called: list[Any] = []

    @property
    def objects(self) -> list[Any]:
        """The script's, that were looked at."""
        return list(self._seen.values())

    def places(self) -> Iterator[Attribute]:
        """Attributes, and what tells their values from others; those of whom all is kept are left out."""
        numbers: Counter[str] = Counter()
        for holder in sorted(self._holders, key=lambda holder: not holder.is_kept):
            numbers[holder.name] += 1
            name = holder.name if numbers[holder.name] == 1 else f"{holder.name}-{numbers[holder.name]}"
            for path, value in _of_the_script(holder.value):
                if "__self__" in path:
                    self.called.append(value)
                yield from self._of(value, f"{name}{path}", holder, steps=0)

    def _of(self, value: Any, path: str, holder: Holder, steps: int) -> Iterator[Attribute]:
        if id(value) in self._seen:
            return
        self._seen[id(value)] = value
        kind = type(value)
        left_out = self._unkept.not_the_scripts(kind, self._is_between_epochs)
        state = _own_state(value)
        for step, item in attributes_of(value):
            name = step[1:]
            if name in left_out or (steps == 0 and name in holder.kept) or (state is not None and name not in state):
                continue
            if self._left == 0:
                self.is_whole = False
                return
            self._left -= 1
            if is_of_script(type(item)) and not isinstance(item, _PLAIN_BASES):
                if id(item) not in self._own and steps < _MOST_STEPS:
                    yield from self._of(item, path + step, holder, steps + 1)
            elif not holder.is_kept:
                yield (path + step, holder.cure), (kind, name), self._values.fingerprint(item, holder.keeps_variables)


# Objects of these have more than attributes.
_PLAIN_BASES = (list, tuple, dict, set, frozenset, str, bytes, int, float)


def is_of_script(kind: type) -> bool:
    """Whether a class is the script's own, and neither installed nor Python's."""
    return not issubclass(kind, type) and not is_of_library(kind.__module__)


def _of_the_script(value: Any) -> list[tuple[str, Any]]:
    """Itself, or else the nearest objects of the script's that it leads to, such as a loader to a dataset."""
    if is_of_script(type(value)):
        return [("", value)]
    found = reachable(value, is_of_script, most=_MOST_OBJECTS, most_items=_MOST_ITEMS).found
    return [
        ("".join(map(_without_underscores, steps)), item)
        for steps, item in found.items()
        if not _is_method(value, steps[0][1:])
    ]


def _is_method(value: Any, attribute: str) -> bool:
    """Whether the class has a method of this name, in whose place a trainer has put another for a while."""
    return callable(inspect.getattr_static(type(value), attribute, None))


def _without_underscores(step: str) -> str:
    """Lightning has what a loader was made with beside it, as `__dataset`."""
    return f".{step[3:]}" if step.startswith(".__") and not step.endswith("__") else step


def _own_state(value: Any) -> dict[str, Any] | None:
    """What the script says that the object's state is, by Python's own `__getstate__`; None where it says nothing."""
    for base in type(value).__mro__:
        if "__getstate__" in vars(base):
            if is_of_library(base.__module__):
                return None
            try:
                state = value.__getstate__()
            except Exception:  # noqa: BLE001 - it isn't asked for a copy here, and doesn't have to be able to make one
                return None
            return state if isinstance(state, dict) else None
    return None


def _message(changed: list[Place], is_whole: bool) -> str:
    by_cure: dict[str, list[str]] = defaultdict(list)
    for name, cure in changed:
        by_cure[cure].append(name)
    told = "; ".join(f"{shortened(names, _MOST_NAMES)} (kept by {cure})" for cure, names in by_cure.items())
    limit = "" if is_whole else f" The first {MOST_ATTRIBUTES:,} attributes were looked at, and no others."
    return (
        f"Since training started these have changed, and training checkpoints don't have them: {told}. A resumed run "
        "begins with them as the script makes them, and becomes another one where a later batch depends on them. What "
        f"is no state can be left out of what __getstate__ of its class returns.{limit}"
    )
