"""What a dataset is like, as far as the order of its batches depends on it; nothing is loaded or drawn to know it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlpug.datasets.tensorflow_data import seeds_of
from mlpug.validation import known_length

SEEDS = "the seeds of its shuffles"
_PARTS = ("dataset", "sampler", "batch_sampler")


def fingerprint_of(dataset: Any, is_seeded: bool = False) -> dict[str, Any]:
    """Describe a dataset in plain data, by words for messages; a length that isn't known is left out.

    Args:
        dataset: as the user gave it.
        is_seeded: whether its order comes from a seed of the run, so that seeds of its own mean nothing.

    >>> fingerprint_of([1, 2, 3])
    {'its class': 'list', 'its length': 3}
    """
    found: dict[str, Any] = {"its class": type(dataset).__name__, "its length": _length(dataset)}
    for part in _PARTS:
        inner = getattr(dataset, part, None)
        if inner is not None:
            found[f"the class of its {part}"] = type(inner).__name__
            found[f"the length of its {part}"] = _length(inner)
    drops = getattr(dataset, "drop_last", None)
    found["drop_last"] = drops if isinstance(drops, bool) else None
    found[SEEDS] = None if is_seeded else seeds_of(dataset) or None
    return {name: value for name, value in found.items() if value is not None}


def differences(saved: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """List what is another now, in words; a length counts where both are known.

    >>> differences(fingerprint_of([1, 2]), fingerprint_of([1, 2, 3]))
    ['its length was 2, and is 3']
    """
    return [
        f"{name} was {saved.get(name)}, and is {here.get(name)}"
        for name in {**here, **saved}
        if saved.get(name) != here.get(name) and ("length" not in name or (name in saved and name in here))
    ]


def _length(dataset: Any) -> int | None:
    try:
        return known_length(dataset)
    except Exception:  # noqa: BLE001 - some know it only while they are iterated; who needs it will hear what is wrong
        return None
