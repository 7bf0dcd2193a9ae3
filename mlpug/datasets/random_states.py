"""The random state of everything that draws: Python, numpy and, where it is loaded, torch on every device.

The order of data, and what is done to it, comes from these also where the model is trained by another library.
"""

from __future__ import annotations

import ctypes
import random
import sys
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlpug.plain import from_plain as _from_plain
from mlpug.plain import to_plain as _to_plain


@dataclass(frozen=True, slots=True, eq=False)
class Snapshot:
    """The random state of a moment, in the libraries' own words: it is taken at each batch, and seldom looked at."""

    python: Any
    numpy: Any
    torch: Any  # of the CPU; None where torch isn't loaded
    devices: tuple[tuple[str, int, Any], ...] = ()  # (kind, index, state)


def capture() -> Snapshot:
    """The global random state now.

    >>> before = capture()
    >>> first = random.random()
    >>> restore(before)
    >>> random.random() == first
    True
    """
    torch = sys.modules.get("torch")
    if torch is None:
        return Snapshot(random.getstate(), _numpy.state(), None)
    cpu = torch.default_generator.get_state()
    return Snapshot(random.getstate(), _numpy.state(), cpu, _devices(torch))


def restore(snapshot: Snapshot, besides: Collection[str] = ()) -> None:
    """Make the global random state what it was, but for that of some libraries, as `changed` names them."""
    if "Python" not in besides:
        random.setstate(snapshot.python)
    if "numpy" not in besides:
        np.random.set_state(snapshot.numpy)
        _numpy.forget()
    torch = sys.modules.get("torch")
    if torch is None or snapshot.torch is None or "torch" in besides:
        return
    torch.default_generator.set_state(snapshot.torch)
    for kind, index, state in snapshot.devices:
        backend = getattr(torch, kind)
        if backend.is_available() and (kind != "cuda" or index < backend.device_count()):
            backend.set_rng_state(state, *((index,) if kind == "cuda" else ()))


def changed(before: Snapshot, after: Snapshot) -> set[str]:
    """The libraries from which somebody has drawn on the host.

    >>> before = capture()
    >>> _ = random.random()
    >>> changed(before, capture())
    {'Python'}
    """
    return {
        name
        for name, one, other in (
            ("Python", before.python, after.python),
            ("numpy", before.numpy, after.numpy),
            ("torch", before.torch, after.torch),
        )
        if one is not other and not is_same_plain(_to_plain(one, _as_array), _to_plain(other, _as_array))
    }


def _as_array(leaf: Any) -> Any:
    return leaf.numpy() if hasattr(leaf, "numpy") else NotImplemented


def seed_from(seed: int, epoch: int) -> None:
    """Make the global random state a function of these alone."""
    words = np.random.SeedSequence([seed, epoch]).generate_state(6)
    random.seed(int(words[0]) << 32 | int(words[1]))
    np.random.seed(words[2:4])
    _numpy.forget()
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.default_generator.manual_seed(int(words[4]) << 31 | int(words[5]))


def as_plain(snapshot: Snapshot) -> dict[str, Any]:
    """The snapshot as a checkpoint holds it.

    >>> from mlpug import checkpoints
    >>> sorted(as_plain(capture()))
    ['devices', 'numpy', 'python', 'torch']
    """
    version, words, gauss = snapshot.python
    return {
        "python": {"version": version, "words": np.array(words, np.uint32), "gauss": gauss},
        "numpy": _to_plain(snapshot.numpy),
        "torch": None if snapshot.torch is None else snapshot.torch.numpy(),
        "devices": [[kind, index, state.numpy()] for kind, index, state in snapshot.devices],
    }


def from_plain(state: dict[str, Any]) -> Snapshot:
    """The snapshot again."""
    python = state["python"]
    torch: Any = sys.modules.get("torch")
    has_torch = torch is not None and state["torch"] is not None
    return Snapshot(
        python=(python["version"], tuple(python["words"].tolist()), python["gauss"]),
        numpy=_from_plain(state["numpy"]),
        torch=torch.from_numpy(state["torch"]) if has_torch else None,
        devices=tuple((kind, index, torch.from_numpy(of)) for kind, index, of in state["devices"]) if has_torch else (),
    )


class _NumpyState:
    """numpy's global state, asked for only where somebody has drawn: to copy it takes numpy 45 µs.

    Whether somebody has shows in its memory, or in the second of two normal numbers being kept outside of that.
    """

    def __init__(self) -> None:
        self._memory = b""
        self._state: dict[str, Any] = {}

    def forget(self) -> None:
        """The state was set: the second of two normal numbers may be another, or not be kept."""
        self._memory = b""

    def state(self) -> dict[str, Any]:
        """Of the global generator now; not to be changed."""
        bits = np.random.get_bit_generator()  # type: ignore[attr-defined]  # missing in numpy's own list of names
        if not isinstance(bits, np.random.MT19937):
            return dict(np.random.get_state(legacy=False))
        memory = ctypes.string_at(bits.ctypes.state_address, _MEMORY_SIZE)
        if memory != self._memory or self._state["has_gauss"]:
            self._state = dict(np.random.get_state(legacy=False))
            self._memory = memory
        return self._state


_MEMORY_SIZE = 625 * 4  # bytes: 624 words, and the position among them
_numpy = _NumpyState()


def _devices(torch: Any) -> tuple[tuple[str, int, Any], ...]:
    cuda = torch.cuda
    if cuda.is_available() and cuda.is_initialized():
        return tuple(("cuda", index, cuda.get_rng_state(index)) for index in range(cuda.device_count()))
    if torch.backends.mps.is_available():
        return (("mps", 0, torch.mps.get_rng_state()),)
    return ()


def is_same_plain(one: Any, other: Any) -> bool:
    """Whether two states that checkpoints can hold are the same.

    >>> is_same_plain({"key": np.arange(3)}, {"key": np.arange(3)}), is_same_plain([1], None)
    (True, False)
    """
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(is_same_plain(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(is_same_plain, one, other))
    return bool(np.array_equal(one, other)) if isinstance(one, np.ndarray) else bool(one == other)
