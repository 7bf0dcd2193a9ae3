"""The states that the checkpoints of these tests hold, and what it means that two are the same."""

from __future__ import annotations

from typing import Any

import numpy as np


def _state(seed: int, size: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    return {
        "epoch": seed,
        "name": f"état {seed} \n\t\"'\\ ✓",
        "loss": random.normal(),
        "best": None,
        "finished": seed % 2 == 0,
        "model": {
            "kernel": random.normal(size=(26 * size, 3)).astype(np.float32),
            "bias": random.normal(size=size),
            "steps": random.integers(0, 100, size=(2, 2, 2)),
            "mask": random.integers(0, 2, size=7).astype(bool),
            "none": np.zeros((0, 3), np.float16),
            "scalar": np.array(2.5, np.float32),
        },
        "callbacks": [{"window": [1, 2.5, float("inf"), None]}, {}, []],
    }


STATES = {
    "old": _state(1, 150),
    "new": _state(2, 500),  # longer than the old one; an array of 150 kB, of which another thread takes the digest
    "next": _state(3, 1),
    "large": {"epoch": 4, "blocks": np.arange(1_200_000, dtype=np.float64)},  # more than two blocks of the format
}


def difference(one: Any, other: Any, path: str = "state") -> str | None:
    """Where two states differ, or None. Types count: 1 is not 1.0, and an array is not a list."""
    if type(one) is not type(other):
        return f"{path}: {type(one).__name__} is not {type(other).__name__}"
    if isinstance(one, dict):
        if list(one) != list(other):
            return f"{path}: the names {list(one)} are not {list(other)}"
        return next((found for name in one if (found := difference(one[name], other[name], f"{path}.{name}"))), None)
    if isinstance(one, list):
        if len(one) != len(other):
            return f"{path}: {len(one)} is not {len(other)} items"
        pairs = enumerate(zip(one, other, strict=True))
        return next((found for i, pair in pairs if (found := difference(*pair, f"{path}[{i}]"))), None)
    if isinstance(one, np.ndarray):
        same = (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    else:
        same = repr(one) == repr(other)
    return None if same else f"{path}: {one!r} is not {other!r}"


def name_of(state: Any) -> str:
    """Which of the states this is; anything else is an error that says where it differs."""
    found = {name: difference(known, state) for name, known in STATES.items()}
    names = [name for name, differs in found.items() if differs is None]
    assert names, f"the state is none that was saved: {found}"
    return names[0]
