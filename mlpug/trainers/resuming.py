"""Which training checkpoint a run goes on from."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mlpug import checkpoints
from mlpug.callbacks.callback import Callback
from mlpug.errors import (
    CheckpointDamagedError,
    CheckpointError,
    CheckpointNotFoundError,
    ConfigurationError,
    MlpugWarning,
)


def state_to_resume(
    resume_from: Any, callbacks: Sequence[Callback], hold: Callable[[Path], None]
) -> tuple[Path, dict[str, Any]] | None:
    """The training checkpoint, and what it is made of; None where the run starts from the beginning.

    Args:
        resume_from: None, the path of a training checkpoint, or ``"auto"``: the newest one that is intact, of those
            that the CheckpointManager writes.
        callbacks: mlpug's own.
        hold: called with each training checkpoint before it is read: no other run changes it from then on, where this
            one would.

    Raises:
        ConfigurationError: ``"auto"`` without a CheckpointManager that creates training checkpoints.
        CheckpointDamagedError: there are training checkpoints, and all of them are damaged.
        CheckpointError: the file can't be read.
    """
    if resume_from is None:
        return None
    if not isinstance(resume_from, (str, os.PathLike)):
        raise ConfigurationError(f'resume_from must be None, a path or "auto", not {resume_from!r}.')
    if resume_from != "auto":
        path = Path(resume_from)
        hold(path)
        return path, checkpoints.load(path)
    return _newest(_candidates(callbacks), hold)


def _candidates(callbacks: Sequence[Callback]) -> list[Path]:
    found = [callback.training_checkpoints() for callback in callbacks if hasattr(callback, "training_checkpoints")]
    if not any(paths is not None for paths in found):
        raise ConfigurationError(
            'resume_from="auto" looks where a CheckpointManager writes training checkpoints, and there is none in '
            "callbacks: add mlp.callbacks.CheckpointManager(create_training_checkpoint=True), or give a path."
        )
    return [Path(path) for paths in found for path in paths or ()]


def _newest(candidates: Sequence[Path], hold: Callable[[Path], None]) -> tuple[Path, dict[str, Any]] | None:
    damaged: list[CheckpointError] = []
    for path in candidates:
        hold(path)
        try:
            state = checkpoints.load(path)
        except CheckpointDamagedError as error:
            damaged.append(error)
            continue
        except CheckpointNotFoundError:
            if not path.is_symlink():
                raise
            damaged.append(CheckpointDamagedError(f"{path} is a link to {os.readlink(path)}, where there is no file."))
            continue
        if damaged:
            warnings.warn(
                f"Training goes on from the older checkpoint {path}, because what is newer is damaged:\n"
                + _listed(damaged),
                MlpugWarning,
                stacklevel=2,
            )
        return path, state
    if damaged:
        raise CheckpointDamagedError(
            'resume_from="auto" found only damaged training checkpoints, and does not start again over them:\n'
            f"{_listed(damaged)}\nRestore one from a backup, or move them away to start from the beginning."
        ) from damaged[0]
    return None


def _listed(errors: Sequence[CheckpointError]) -> str:
    return "\n".join(f"- {error}" for error in errors)
