"""Between which devices and processes JAX shares a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax


def processes() -> tuple[int, int]:
    """(rank, number of processes)."""
    return jax.process_index(), jax.process_count()


def scope() -> None:
    """JAX has none."""


def sharing(parts: Sequence[Any]) -> str | None:
    """How parts of a model are shared between devices, in words; None where they aren't."""
    for part in parts:
        for variable in part.variables:
            devices = getattr(getattr(variable.value, "sharding", None), "device_set", ())
            if len(devices) > 1:
                return f"the {type(part).__name__} has weights on {len(devices)} of them"
    return None
