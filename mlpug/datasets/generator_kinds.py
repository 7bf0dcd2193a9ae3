"""Each kind of random generator: how its state is read, given back and made from a seed."""

from __future__ import annotations

import random
import sys
from operator import attrgetter
from typing import Any, Protocol

import numpy as np

from mlpug.plain import from_plain, to_plain


class Kind(Protocol):
    """How to treat one kind of random generator."""

    def state(self, generator: Any) -> Any:
        """Its state, as a checkpoint holds it."""

    def set_state(self, generator: Any, state: Any) -> None:
        """Give it back; an error where it is of another kind."""

    def seed(self, generator: Any, sequence: np.random.SeedSequence) -> None:
        """Make what it draws a function of this alone."""


class _Python:
    def state(self, generator: random.Random) -> Any:
        return to_plain(generator.getstate())

    def set_state(self, generator: random.Random, state: Any) -> None:
        generator.setstate(from_plain(state))

    def seed(self, generator: random.Random, sequence: np.random.SeedSequence) -> None:
        generator.seed(int(sequence.generate_state(1, np.uint64)[0]))


class _NumpyBits:
    """numpy's source of bits, which a Generator draws from."""

    def state(self, generator: Any) -> Any:
        return to_plain(generator.state)

    def set_state(self, generator: Any, state: Any) -> None:
        if "has_gauss" in state:
            raise ValueError("it was a RandomState")
        generator.state = from_plain(state)

    def seed(self, generator: Any, sequence: np.random.SeedSequence) -> None:
        kind: Any = type(generator)
        generator.state = kind(sequence).state


class _Numpy:
    def state(self, generator: np.random.Generator) -> Any:
        return _NumpyBits().state(generator.bit_generator)

    def set_state(self, generator: np.random.Generator, state: Any) -> None:
        _NumpyBits().set_state(generator.bit_generator, state)

    def seed(self, generator: np.random.Generator, sequence: np.random.SeedSequence) -> None:
        _NumpyBits().seed(generator.bit_generator, sequence)


class _RandomState:
    def state(self, generator: np.random.RandomState) -> Any:
        return to_plain(generator.get_state(legacy=False))

    def set_state(self, generator: np.random.RandomState, state: Any) -> None:
        generator.set_state(from_plain(state))

    def seed(self, generator: np.random.RandomState, sequence: np.random.SeedSequence) -> None:
        generator.seed(sequence.generate_state(4))


class _Torch:
    def state(self, generator: Any) -> Any:
        return generator.get_state().numpy().copy()

    def set_state(self, generator: Any, state: Any) -> None:
        generator.set_state(sys.modules["torch"].from_numpy(state))

    def seed(self, generator: Any, sequence: np.random.SeedSequence) -> None:
        generator.manual_seed(int(sequence.generate_state(1, np.uint64)[0]) >> 1)


class _Variable:
    """One that keeps its state in a variable: Keras's SeedGenerator and TensorFlow's Generator."""

    def state(self, generator: Any) -> Any:
        return np.array(generator.state)

    def set_state(self, generator: Any, state: Any) -> None:
        if not isinstance(state, np.ndarray) or state.shape != tuple(generator.state.shape):
            raise ValueError("it had another state")
        generator.state.assign(state)

    def seed(self, generator: Any, sequence: np.random.SeedSequence) -> None:
        here = self.state(generator)
        generator.state.assign(sequence.generate_state(here.size, np.uint32).reshape(here.shape).astype(here.dtype))


_KINDS: tuple[tuple[type, Kind], ...] = (
    (random.Random, _Python()),
    (np.random.Generator, _Numpy()),
    (np.random.RandomState, _RandomState()),
    (np.random.BitGenerator, _NumpyBits()),
)
_OF_LIBRARIES: tuple[tuple[str, str, Kind], ...] = (  # where the library is loaded
    ("torch", "Generator", _Torch()),
    ("keras", "random.SeedGenerator", _Variable()),
    ("tensorflow", "random.Generator", _Variable()),
)


def kind_of(generator: Any) -> Kind:
    """How to treat it."""
    kind = _kind_of(type(generator))
    assert kind is not None
    return kind


def is_generator(kind: type) -> bool:
    """Whether objects of this type are random generators whose state can be kept."""
    return _kind_of(kind) is not None


def state_of(generator: Any) -> Any:
    """Its state, as a checkpoint holds it."""
    return kind_of(generator).state(generator)


def identity(generator: Any) -> int:
    """The same for two that draw from one source."""
    return id(getattr(generator, "bit_generator", None) or getattr(generator, "_bit_generator", None) or generator)


def _kind_of(kind: type) -> Kind | None:
    for known, treatment in _KINDS:
        if issubclass(kind, known):
            return treatment
    for library, name, treatment in _OF_LIBRARIES:
        if library in sys.modules and issubclass(kind, attrgetter(name)(sys.modules[library])):
            return treatment
    return None


def ids_of_shared() -> list[int]:
    """Of those that all share, which a script may have put into an attribute."""
    shared = [random.random.__self__, np.random.get_state.__self__, np.random.get_bit_generator()]  # type: ignore
    torch = sys.modules.get("torch")
    return [identity(each) for each in (*shared, *(() if torch is None else (torch.default_generator,)))]
