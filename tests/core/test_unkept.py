"""What a run changes of the script's objects, and no checkpoint keeps, is named in one warning."""

import array
import collections
import datetime
import enum
import functools
import io
import random
import time
import types
import warnings
from dataclasses import dataclass, field

import numpy as np
import pytest

from mlpug.adapter import Holder
from mlpug.errors import MlpugWarning
from mlpug.trainers.unkept import Unkept
from mlpug.trainers.values import Values


class Thing:
    """An object of the script's, with whatever attributes."""

    def __init__(self, **attributes):
        vars(self).update(attributes)

    def __call__(self):
        return vars(self)


class Slotted:
    __slots__ = ("count", "empty")

    def __init__(self):
        self.count = 0

    def __call__(self):
        return self.count, self.empty


@dataclass
class Step:
    reward: float
    states: list = field(default_factory=list)


class Level(enum.Enum):
    EASY = 1
    HARD = 2


class Hostile:
    """Raises whatever is done with it."""

    def __eq__(self, other):
        raise RuntimeError("no")

    __hash__ = __bool__ = __len__ = __repr__ = __eq__

    @property
    def shape(self):
        raise RuntimeError("no")

    dtype = count = shape


def told(change, *holders):
    """The warnings' texts where this happens between the start and a save."""
    unkept = Unkept(lambda: holders, lambda tree: tree)
    unkept.begin()
    change()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        unkept.tell(is_between_epochs=False)
        unkept.tell(is_between_epochs=False)
    assert all(each.category is MlpugWarning for each in caught)
    return [str(each.message) for each in caught]


def holder(value, **options):
    return Holder("it", value, "its hook", **options)


def replace(name, value):
    return lambda thing: setattr(thing, name, value)


CHANGES = {  # what it is at the start, and what happens to it
    "a number": (0, replace("it", 1)),
    "a number of another type": (1, replace("it", 1.0)),
    "minus one and minus two, whose hashes are equal": (-1, replace("it", -2)),
    "an immense number": (10**5000, replace("it", 10**5000 + 1)),
    "a truth": (False, replace("it", True)),
    "a text": ("a", replace("it", "b")),
    "nothing": (None, replace("it", 3)),
    "bytes": (bytearray(3), lambda thing: thing.it.__setitem__(0, 1)),
    "an array of Python's": (array.array("d", [0.0]), lambda thing: thing.it.append(1.0)),
    "a date": (datetime.date(2024, 2, 28), replace("it", datetime.date(2024, 2, 29))),
    "one of a few": (Level.EASY, replace("it", Level.HARD)),
    "a list": ([], lambda thing: thing.it.append(1)),
    "a deque that is full": (collections.deque([1, 2], maxlen=2), lambda thing: thing.it.append(3)),
    "a counter": (collections.Counter(a=1), lambda thing: thing.it.update("a")),
    "a set": ({1, 2}, lambda thing: thing.it.add(3)),
    "a set of as many": ({1, 2}, replace("it", {1, 3})),
    "within a list in a dict in a tuple": (({"a": [1]},), lambda thing: thing.it[0]["a"].append(2)),
    "an array": (np.zeros(3), lambda thing: thing.it.__setitem__(1, 1)),
    "another shape": (np.zeros((2, 3)), replace("it", np.zeros((3, 2)))),
    "an array of objects": (np.array([None, 1], dtype=object), lambda thing: thing.it.__setitem__(0, 2)),
    "a large array": (np.zeros((300, 1000)), lambda thing: thing.it.__iadd__(1)),
    "the end of a large list": (list(range(10**5)), lambda thing: thing.it.append(1)),
    "the end of a large dict": (dict.fromkeys(range(10**5), 0), lambda thing: thing.it.__setitem__(10**5 - 1, 1)),
    "a large deque that is full": (collections.deque(range(5000), maxlen=5000), lambda thing: thing.it.append(1)),
    "a long text": ("a" * 10**6, replace("it", "a" * 10**6 + "b")),
    "a number of numpy's": (np.float32(1), replace("it", np.float32(2))),
    "objects of the script's in a list": ([Step(1.0)], lambda thing: thing.it[0].states.append(1)),
    "a namespace": (types.SimpleNamespace(count=0), lambda thing: setattr(thing.it, "count", 1)),
    "in slots": ([Slotted()], lambda thing: setattr(thing.it[0], "count", 1)),
    "a list of the script's own kind": (type("Bag", (list,), {})(), lambda thing: thing.it.append(1)),
    "itself": ([], lambda thing: thing.it.append(thing.it) or thing.it.append(1)),
}


@pytest.mark.parametrize("kind", CHANGES)
def test_what_changes_is_named_once(kind):
    value, change = CHANGES[kind]
    thing = Thing(it=value, steady=[1, {"a": np.ones(2)}])
    (message,) = told(lambda: change(thing), holder(thing))
    assert "it.it" in message
    assert "its hook" in message
    assert "steady" not in message


@pytest.mark.parametrize("kind", CHANGES)
def test_what_does_not_change_is_not_named(kind):
    thing = Thing(it=CHANGES[kind][0])
    assert told(lambda: None, holder(thing)) == []


EQUAL = {
    "a list that is full in between": ([], lambda thing: thing.it.append(1) or thing.it.clear()),
    "an equal one": ([1, (2.0, "a")], replace("it", [1, (2.0, "a")])),
    "an equal array": (np.arange(3), replace("it", np.arange(3))),
    "no number": (float("nan"), replace("it", float("nan"))),
    "a file": (None, replace("it", io.StringIO())),
    "files": ([], lambda thing: thing.it.append(io.StringIO())),
    "a function": (None, replace("it", lambda: None)),
    "a generator of random numbers": (random.Random(0), lambda thing: thing.it.random()),
    "an object of a library's": (io.StringIO(), lambda thing: thing.it.write("a")),
    "an iterator": (iter("abc"), lambda thing: next(thing.it)),
    "what raises": (Hostile(), lambda thing: None),
}


@pytest.mark.parametrize("kind", EQUAL)
def test_nothing_is_said_of_what_is_no_state_or_as_it_was(kind):
    value, change = EQUAL[kind]
    thing = Thing(it=value)
    assert told(lambda: change(thing), holder(thing)) == []


def test_objects_that_it_holds_are_looked_at_and_named_by_the_way_to_them():
    thing = Thing(memory=Thing(steps=[], inner=Slotted()))

    def change():
        thing.memory.steps.append(1)
        thing.memory.inner.count = 3
        thing.memory.inner.empty = 4

    (message,) = told(change, holder(thing))
    assert all(each in message for each in ("it.memory.steps", "it.memory.inner.count", "it.memory.inner.empty"))


class Fits:
    def fit(self):
        """As installed classes have methods."""


Fits.__module__ = "functools"


@pytest.mark.parametrize("name", ["fit", "data"])
def test_what_is_put_in_the_place_of_a_librarys_method_leads_nowhere(name):
    """A trainer lends a model methods of its own, which know the data."""
    model, thing = Fits(), Thing(it=0)
    setattr(model, name, thing)
    assert len(told(lambda: replace("it", 1)(thing), holder(model))) == (name == "data")


def test_a_new_attribute_is_named():
    thing = Thing()
    (message,) = told(lambda: replace("seen", 1)(thing), holder(thing))
    assert "it.seen" in message


def test_what_two_lead_to_is_named_once():
    shared = Thing(count=0)
    first, second = Thing(own=shared), Thing(own=shared, also=[shared])
    (message,) = told(lambda: replace("count", 1)(shared), holder(first), Holder("other", second, "another hook"))
    assert message.count(".count") == 1
    assert "another hook" not in message


def test_what_is_kept_is_not_named_by_whatever_leads_to_it():
    shared = Thing(count=0)
    holders = holder(Thing(own=shared)), holder(Thing(own=shared), is_kept=True)
    assert told(lambda: replace("count", 1)(shared), *holders) == []


def test_names_that_the_host_keeps_are_not_named():
    thing = Thing(weight=1, other=1)
    (message,) = told(lambda: vars(thing).update(weight=2, other=2), holder(thing, kept={"weight"}))
    assert "weight" not in message


def test_what_getstate_leaves_out_is_no_state():
    class Says(Thing):
        def __getstate__(self):
            return {name: value for name, value in vars(self).items() if name != "seen"}

    thing = Says(seen=0, count=0)
    (message,) = told(lambda: vars(thing).update(seen=1, count=1), holder(thing))
    assert "it.count" in message
    assert "seen" not in message


def test_attributes_of_installed_bases_are_not_the_scripts():
    class Log(collections.UserList):  # whose data is
        def __call__(self):
            return self.data

    class Namespace(random.Random):
        def __init__(self):
            super().__init__(0)
            self.own = 0

        def __call__(self):
            return self.own, self.gauss_next

    log, other = Log(), Namespace()
    (message,) = told(lambda: log.append(1), holder(log))
    assert "it.data" in message
    (message,) = told(lambda: vars(other).update(own=1, gauss_next=0.5), holder(other))
    assert "it.own" in message
    assert "gauss_next" not in message


class Numbers:
    """An iterable that counts where it is, and how often it was begun."""

    def __init__(self):
        self.place = self.rounds = self.epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __call__(self):
        return self.rounds, self.epoch

    def _rewind(self):
        self.place = 0

    def __iter__(self):
        self.rounds += 1
        self._rewind()
        while self.place < 3:
            self.place += 1
            yield self.place


class Sequence:
    """Made like Keras's PyDataset."""

    def __init__(self):
        self.order, self.served = [1, 2], 0

    def __getitem__(self, index):
        self.served += 1
        return self.order[index] + self.served

    def _shuffle(self):
        self.order = self.order[::-1]

    def on_epoch_begin(self):
        pass

    def on_epoch_end(self):
        self._shuffle()


def test_what_a_resumed_run_makes_again_is_not_named():
    numbers, sequence = Numbers(), Sequence()

    def change():
        next(iter(numbers))
        numbers.set_epoch(1)
        sequence.on_epoch_end()
        sequence[0]

    (message,) = told(change, holder(numbers), Holder("sequence", sequence, "hooks"))
    assert "it.rounds" in message
    assert "sequence.served" in message
    assert not any(each in message for each in ("place", "epoch", "order"))


def test_a_branch_may_leave_out_what_iter_sets():
    class Sometimes(Numbers):
        def __iter__(self):
            if self.rounds == 0:
                self.place = 0
            self.place += 1
            yield self.place

    numbers = Sometimes()
    (message,) = told(lambda: next(iter(numbers)), holder(numbers))
    assert "it.place" in message


def test_what_each_epoch_sets_as_it_starts_matters_only_within_one():
    class Losses:
        def __init__(self):
            self.losses = []

        def on_epoch_start(self, logs):
            self.losses = []

        def on_epoch_completed(self, logs):
            return sum(self.losses)

    thing = Losses()
    unkept = Unkept(lambda: [holder(thing)], lambda tree: tree)
    unkept.begin()
    thing.losses.append(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unkept.tell(is_between_epochs=True)
    with pytest.warns(MlpugWarning, match=r"it\.losses"):
        unkept.tell(is_between_epochs=False)


class Recorder:
    """Only writes, as far as a run calls it."""

    def __init__(self):
        self.seen, self.sums, self.counts = [], {"a": 0}, {}
        self.calls = self.total = 0
        self.smooth = self.last = 0.0

    def on_batch_training_completed(self, batch, logs):
        self.seen.append(batch)
        self.sums["a"] += batch
        self.counts.setdefault(batch, 0)
        self.calls += 1
        self.total = self.total + batch
        self.smooth = 0.9 * self.smooth + 0.1 * batch
        self.last = batch

    def orders(self):
        return [*self.seen, self.sums, self.calls, self.last]


class Reader(Recorder):
    """Does something with what it wrote."""

    def on_epoch_completed(self, logs):
        if self._is_due() or self.smooth > 3:
            self.last = 0

    def _is_due(self):
        return len(self.seen) == 7


def test_what_is_only_written_is_not_named():
    recorder = Recorder()
    (message,) = told(lambda: recorder.on_batch_training_completed(1, None), holder(recorder))
    assert "it.counts" in message  # `setdefault` gives what was there
    assert not any(f"it.{each}" in message for each in ("seen", "sums", "calls", "total", "smooth", "last"))


def test_what_is_read_by_a_method_that_is_called_is_named():
    reader = Reader()
    (message,) = told(lambda: reader.on_batch_training_completed(1, None), holder(reader))
    assert all(f"it.{each}" in message for each in ("seen", "smooth", "counts"))
    assert not any(f"it.{each}" in message for each in ("sums", "calls", "total", "last"))


def _reads_calls(recorder):
    return recorder.calls


def _asks_another(recorder):
    return _reads_calls(recorder)


@pytest.mark.parametrize(
    "function",
    [_reads_calls, _asks_another, lambda recorder: getattr(recorder, "calls"), functools.partial(_asks_another)],  # noqa: B009
    ids=["function", "by another", "by name", "partial"],
)
def test_what_a_function_reads_is_named(function):
    recorder = Recorder()
    recorder.how = function
    (message,) = told(lambda: recorder.on_batch_training_completed(1, None), holder(recorder))
    assert "it.calls" in message
    assert "it.total" not in message


def test_what_another_object_reads_is_named():
    class Other:
        def __init__(self, recorder):
            self.recorder = recorder

        def __call__(self, batch):
            return self.recorder.total

    recorder = Recorder()
    other = Other(recorder)
    (message,) = told(
        lambda: recorder.on_batch_training_completed(1, None), holder(recorder), Holder("other", other, "a hook")
    )
    assert "it.total" in message
    assert "it.calls" not in message


class Forwards:
    """Gives what another object has, as what torch.compile makes of a module does."""

    def __init__(self, other):
        self.__dict__["other"] = other

    def __getattr__(self, name):
        return getattr(self.__dict__["other"], name)


Forwards.__module__ = "functools"  # an installed one


@pytest.mark.parametrize("is_forwarded", [False, True])
def test_what_is_read_of_a_librarys_object_is_its_own(is_forwarded):
    class Asks:
        def __init__(self, other):
            self.other = other

        def __call__(self, batch):
            return self.other.total

    recorder = Recorder()
    other = Asks(Forwards(recorder) if is_forwarded else types.SimpleNamespace(total=1))
    (message,) = told(
        lambda: recorder.on_batch_training_completed(1, None), holder(recorder), Holder("other", other, "a hook")
    )
    assert ("it.total" in message) == is_forwarded


def test_a_text_that_is_a_name_reads_nothing():
    class Logging(Recorder):
        def on_epoch_completed(self, logs):
            logs["calls"] = {"total": 1}

    recorder = Logging()
    (message,) = told(lambda: recorder.on_batch_training_completed(1, None), holder(recorder))
    assert not any(f"it.{each}" in message for each in ("calls", "total"))


def test_where_names_are_not_in_the_code_all_is_taken_to_be_read():
    class Dynamic(Recorder):
        def on_epoch_completed(self, logs):
            return [getattr(self, name) for name in logs]

    recorder = Dynamic()
    (message,) = told(lambda: recorder.on_batch_training_completed(1, None), holder(recorder))
    assert all(f"it.{each}" in message for each in ("calls", "total", "seen"))


def test_of_code_without_a_source_all_is_taken_to_be_read():
    space = {"__name__": __name__}
    exec("class Counter:\n    count = 0\n    def __call__(self):\n        self.count += 1\n", space)
    counter = space["Counter"]()
    (message,) = told(counter, holder(counter))
    assert "it.count" in message


def test_two_of_a_name_are_told_apart():
    first, second = Thing(count=0), Thing(count=0)
    (message,) = told(lambda: replace("count", 1)(second), holder(first), holder(second))
    assert "it-2.count" in message
    assert "it.count" not in message


def test_later_saves_tell_of_what_is_new_only():
    thing = Thing(count=0, level=0)
    unkept = Unkept(lambda: [holder(thing)], lambda tree: tree)
    unkept.begin()
    thing.count = 1
    with pytest.warns(MlpugWarning, match=r"it\.count"):
        unkept.tell(is_between_epochs=False)
    thing.count, thing.level = 2, 1
    with pytest.warns(MlpugWarning, match=r"it\.level") as caught:
        unkept.tell(is_between_epochs=False)
    assert "count" not in str(caught[0].message)


def test_many_names_are_counted():
    thing = Thing(**{f"number_{at}": 0 for at in range(50)})
    (message,) = told(lambda: vars(thing).update(dict.fromkeys(vars(thing), 1)), holder(thing))
    assert "and 30 others" in message


def test_too_many_attributes_are_said_to_be_too_many(monkeypatch):
    monkeypatch.setattr("mlpug.trainers.unkept.MOST_ATTRIBUTES", 10)
    thing = Thing(**{f"number_{at}": 0 for at in range(50)})
    (message,) = told(lambda: vars(thing).update(dict.fromkeys(vars(thing), 1)), holder(thing))
    assert message.count("it.number_") == 10
    assert "first 10 attributes" in message


@pytest.mark.parametrize(
    "value",
    [
        [f"image_{at}.png" for at in range(10**6)],
        dict.fromkeys(range(10**6), "a"),
        set(range(10**6)),
        np.zeros(10**8, dtype=np.uint8),
        [[[0] * 100] * 100] * 100,
    ],
    ids=["names", "dict", "set", "array", "lists of lists"],
)
def test_a_look_takes_no_longer_for_more(value):
    values = Values(lambda tree: tree, lambda value: False)

    def seconds():
        started = time.process_time()
        values.fingerprint(value)
        return time.process_time() - started

    assert min(seconds() for _ in range(5)) < 0.05


def test_a_loader_of_a_million_names_is_looked_at_in_no_time():
    thing = types.SimpleNamespace(dataset=[f"image_{at}.png" for at in range(10**6)], own=Thing(count=0))
    started = time.process_time()
    (message,) = told(lambda: replace("count", 1)(thing.own), holder(thing))
    assert time.process_time() - started < 0.15  # of three looks
    assert "it.own.count" in message
