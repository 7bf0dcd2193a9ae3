"""What scripts set of their optimizers: kept with a run, and compared where another script goes on with it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from mlpug.errors import ConfigurationError, MlpugWarning

CHECKPOINT, SCRIPT = "checkpoint", "script"  # whose settings a resumed run trains with
CONFIGURED = "configured"  # the key of an optimizer's state for what its script had set when training started
Settings = dict[str, Any]  # numbers, texts, None and lists of them, by words for messages


def check_source(source: Any) -> None:
    """Raise `ConfigurationError` where it is neither ``"checkpoint"`` nor ``"script"``.

    >>> check_source("script")
    """
    if source not in (CHECKPOINT, SCRIPT):
        raise ConfigurationError(
            f'resume_optimizer_settings must be "checkpoint" or "script", whichever has the learning rates and the '
            f"other settings of the optimizers that training goes on with, not {source!r}."
        )


def scalars(values: Mapping[str, Any], leave_out: Iterable[str] = ()) -> Settings:
    """Those of the values that are numbers, texts, None, or tuples and lists of these.

    >>> scalars({"lr": 0.1, "betas": (0.9, 0.99), "params": [object()], "fused": None}, ["fused"])
    {'lr': 0.1, 'betas': [0.9, 0.99]}
    """
    found = {name: _plain(value) for name, value in values.items() if name not in leave_out}
    return {name: value for name, value in found.items() if value is not _OTHER}


def warn_of_other_settings(
    states: Mapping[str, Any], here: Mapping[str, Settings], used: Mapping[str, Settings], source: str
) -> None:
    """Name what this script sets otherwise than the one that wrote the checkpoint, and what training goes on with.

    Args:
        states: of the optimizers, from the checkpoint.
        here: what this script has set, by the names of the optimizers.
        used: what they have now that the state was given to them, by the same names.
        source: where that is from.

    >>> same, moved = {"optimizer": {"lr": 0.1}}, {"optimizer": {"lr": 0.05}}  # by a schedule
    >>> warn_of_other_settings({"optimizer": {"configured": {"lr": 0.1}}}, same, moved, "checkpoint")
    """
    told = []
    for name, now in used.items():
        saved = states[name].get(CONFIGURED)
        if not isinstance(saved, Mapping):  # of an earlier version
            continue
        told += [
            f"{key} of {name!r} was {_shown(saved[key])}, is {_shown(value)} in this script, and training goes on with "
            f"{_shown(now.get(key, value))}"
            for key, value in here.get(name, {}).items()
            if key in saved and saved[key] != value
        ]
    if told:
        cure = (
            'For those of the script pass resume_optimizer_settings="script" to start_training.'
            if source == CHECKPOINT
            else "For those of the checkpoint leave out resume_optimizer_settings."
        )
        warnings.warn(
            f"Optimizers are set otherwise than in the script that wrote the checkpoint: {'; '.join(told)}. {cure}",
            MlpugWarning,
            stacklevel=4,
        )


_OTHER = object()


def _plain(value: Any) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, (tuple, list)):
        items = [_plain(item) for item in value]
        return _OTHER if _OTHER in items else items
    if getattr(value, "shape", None) == () and hasattr(value, "item"):  # a number on some device
        return _plain(value.item())
    return _OTHER


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
