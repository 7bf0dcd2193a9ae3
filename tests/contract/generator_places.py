"""Places in which a dataset's random generators sit, and kinds of them, for tests of a resume."""

import functools
import random
import sys
from collections import deque, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

NUM_BATCHES = 3
KINDS = {  # (made from a number, a number that it draws)
    "Generator": (np.random.default_rng, lambda own: own.normal()),
    "RandomState": (np.random.RandomState, lambda own: own.normal()),
    "bits": (np.random.PCG64, lambda own: np.random.Generator(own).normal()),
    "Random": (random.Random, lambda own: own.gauss(0, 1)),
}


class Dataset:
    """Batches to which a number is added that `draw()` gives."""

    def __init__(self, draw):
        self.draw = draw

    def __len__(self):
        return NUM_BATCHES

    def __iter__(self):
        fixed = np.random.default_rng(0)
        for _ in range(NUM_BATCHES):
            x = fixed.normal(size=(4, 6)) + self.draw()
            yield x, x.sum(axis=1)


class _Noise:
    def __init__(self, own, draw):
        self.own, self.how = own, draw

    def __call__(self):
        return self.how(self.own)

    def by_method(self):
        return self.how(self.own)

    @property
    def now(self):
        return self.how(self.own)


class _Slots:
    __slots__ = ("empty", "own")

    def __init__(self, own):
        self.own = own


class _Late(_Slots):
    """In a slot of its base, beside a dict of its own."""


@dataclass(slots=True)
class _Frozen:
    own: object


_Pair = namedtuple("_Pair", ["name", "own"])
_GLOBALS = SimpleNamespace()
THE_OWN = None


def _of_global():
    return THE_OWN[1](THE_OWN[0])


def _in_global(own, draw):
    sys.modules[__name__].THE_OWN = [own, draw]
    return _of_global


def _in_class(own, draw):
    class Noise:
        shared = own

        def __call__(self):
            return draw(self.shared)

    return Noise()


def _in_default(own, draw):
    def noise(own=own):
        return draw(own)

    return noise


def _in_keyword(own, draw):
    def noise(*, own=own):
        return draw(own)

    return noise


def _in_decorated(own, draw):
    noise = _in_default(own, draw)

    @functools.wraps(noise)
    def wrapper():
        return noise()

    return wrapper


def _held_in(make):
    """A place in a holder, from which a function of its own draws."""

    def place(own, draw):
        holder, find = make(own)

        def noise():
            return draw(find(holder))

        return noise

    return place


PLACES = {
    "attribute": lambda own, draw: _Noise(own, draw),
    "bound method": lambda own, draw: _Noise(own, draw).by_method,
    "partial": lambda own, draw: functools.partial(draw, own),
    "partial's keyword": lambda own, draw: functools.partial(lambda own: draw(own), own=own),
    "closure": lambda own, draw: lambda: draw(own),
    "default": _in_default,
    "keyword's default": _in_keyword,
    "decorated function": _in_decorated,
    "class": _in_class,
    "global": _in_global,
    "slot": _held_in(lambda own: (_Slots(own), lambda holder: holder.own)),
    "slot of a base": _held_in(lambda own: (_Late(own), lambda holder: holder.own)),
    "dataclass": _held_in(lambda own: (_Frozen(own), lambda holder: holder.own)),
    "namedtuple": _held_in(lambda own: (_Pair("a", own), lambda holder: holder.own)),
    "list": _held_in(lambda own: ([1, [own]], lambda holder: holder[1][0])),
    "long list": _held_in(lambda own: ([*range(500), (1, own)], lambda holder: holder[-1][1])),
    "deque": _held_in(lambda own: (deque([own]), lambda holder: holder[0])),
    "dict": _held_in(lambda own: ({"noise": {3: own}}, lambda holder: holder["noise"][3])),
    "set": _held_in(lambda own: ({own}, lambda holder: next(iter(holder)))),
    "property": _held_in(lambda own: (_Noise(own, lambda found: found), lambda holder: holder.now)),
}


def dataset(place, kind, number):
    """One whose generator of this kind sits in this place, made from this number."""
    make, draw = kind
    return Dataset(PLACES[place](make(number), draw))


def dataset_of_all(kind, number):
    """One with a generator in every place."""
    make, draw = kind
    draws = [put(make(number + at), draw) for at, put in enumerate(PLACES.values())]
    return Dataset(lambda: sum(each() for each in draws))
