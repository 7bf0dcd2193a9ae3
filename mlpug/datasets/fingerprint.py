"""What a dataset is like, as far as the order of its batches depends on it; nothing is loaded or drawn to know it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlpug.datasets.tensorflow_data import seeds_of
from mlpug.validation import known_length

_PARTS = ("dataset", "sampler", "batch_sampler")


def fingerprint_of(dataset: Any) -> dict[str, Any]:
    """Plain data, by words for messages.

    >>> fingerprint_of([1, 2, 3])
    {'its class': 'list', 'its length': 3}
    """
    found: dict[str, Any] = {"its class": type(dataset).__name__, "its length": known_length(dataset)}
    for part in _PARTS:
        inner = getattr(dataset, part, None)
        if inner is not None:
            found[f"the class of its {part}"] = type(inner).__name__
            found[f"the length of its {part}"] = known_length(inner)
    drops = getattr(dataset, "drop_last", None)
    if isinstance(drops, bool):
        found["drop_last"] = drops
    seeds = seeds_of(dataset)
    return found | ({"the seeds of its shuffles": seeds} if seeds else {})


def differences(saved: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What is another now, in words.

    >>> differences(fingerprint_of([1, 2]), fingerprint_of([1, 2, 3]))
    ['its length was 2, and is 3']
    """
    return [
        f"{name} was {saved.get(name)}, and is {here.get(name)}"
        for name in {**here, **saved}
        if saved.get(name) != here.get(name)
    ]
