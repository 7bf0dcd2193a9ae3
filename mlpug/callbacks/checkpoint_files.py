"""The files of a run's checkpoints: what they are called, and in which order they are written."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlpug import checkpoints
from mlpug.callbacks.checkpoint_schedule import Plan
from mlpug.checkpoints import locks
from mlpug.checkpoints.background import copied
from mlpug.checkpoints.writing import try_to_save
from mlpug.errors import CheckpointError, CheckpointWriteError, ConfigurationError

_TRAINING = "-training-checkpoint.safetensors"


@dataclass(frozen=True, slots=True)
class Moment:
    """What is saved of a moment."""

    plan: Plan
    position: tuple[int, str | None]  # batches done, and what ended last: a "batch" or an "epoch"
    facts: dict[str, Any]  # for the files' descriptions
    metric: float | None  # that is monitored, where the best model is saved
    model: dict[str, Any] | None  # states, where the plan needs them
    training: dict[str, Any] | None

    def copied(self) -> Moment:
        """The same with arrays of its own, so that training can go on."""
        model, training = copied(self.model, self.training)
        return replace(self, model=model, training=training)


@dataclass(frozen=True, slots=True)
class CheckpointFiles:
    """The checkpoints in a directory whose names start alike.

    >>> CheckpointFiles(Path("checkpoints"), "mnist").archived(2000).name
    'mnist-model-checkpoint-2000.safetensors'
    """

    directory: Path
    base: str

    @property
    def best(self) -> Path:
        """The model when the monitored metric was best."""
        return self.directory / f"{self.base}-best-model-checkpoint.safetensors"

    @property
    def latest(self) -> Path:
        """The model as it was lately."""
        return self.directory / f"{self.base}-latest-model-checkpoint.safetensors"

    @property
    def training(self) -> Path:
        """What training goes on from."""
        return self.directory / f"{self.base}{_TRAINING}"

    @property
    def lock(self) -> Path:
        """What says that a run is writing the others."""
        return self.directory.resolve() / f".{self.base}{locks.SUFFIX}"

    def archived(self, global_iter: int) -> Path:
        """The model after this many batches."""
        return self.directory / f"{self.base}-model-checkpoint-{global_iter}.safetensors"

    def write(self, moment: Moment, keep_archived: int | None) -> None:
        """Write what the plan says; a process that is killed at any point leaves the old or the new one of each file.

        Args:
            moment: What to write.
            keep_archived: How many archived checkpoints to keep, the newest ones; None: all.

        Raises:
            CheckpointWriteError: One can't be written, and those after it aren't either.
            StateError: A state holds something that a checkpoint can't.
        """
        plan, global_iter = moment.plan, moment.position[0]
        wanted = {self.latest: plan.save_latest, self.best: plan.save_best, self.archived(global_iter): plan.archive}
        paths = [path for path, is_wanted in wanted.items() if is_wanted]
        if paths and moment.model is not None:
            checkpoints.save(paths[0], moment.model, {"kind": "model", **moment.facts})
            for path in paths[1:]:
                checkpoints.copy(paths[0], path)
        if plan.archive and keep_archived is not None:
            self._delete_archived(keep_archived, written=global_iter)
        if plan.save_training and moment.training is not None:
            checkpoints.save(self.training, moment.training, {"kind": "training", **moment.facts})

    def missing(self, moment: Moment) -> Plan:
        """What of the plan isn't there, after an error: by what the files say."""

        def lacks(path: Path) -> bool:
            try:
                return bool(checkpoints.describe(path).description.get("saved_at") != moment.facts["saved_at"])
            except CheckpointError:
                return True

        plan = moment.plan
        return replace(
            plan,
            is_best=False,
            save_best=plan.save_best and lacks(self.best),
            save_latest=plan.save_latest and lacks(self.latest),
            archive=plan.archive and lacks(self.archived(moment.position[0])),
            save_training=plan.save_training and lacks(self.training),
        )

    def _delete_archived(self, keep: int, written: int) -> None:
        """Delete all but the newest; never the one just written, though a run that this one repeats got further."""
        pattern = re.compile(re.escape(self.base) + r"-model-checkpoint-(0|[1-9][0-9]*)\.safetensors")
        try:
            names = os.listdir(self.directory)
        except OSError as error:
            raise CheckpointWriteError(
                error.errno, f"Can't list the archived checkpoints in {self.directory}: {error.strerror}."
            ) from error
        matches = (pattern.fullmatch(name) for name in names)
        newest_first = sorted((int(match[1]) for match in matches if match), reverse=True)
        for global_iter in newest_first[keep:]:
            if global_iter != written:
                checkpoints.delete(self.archived(global_iter))

    def check_writable(self) -> None:
        """Write a file, and remove it.

        Raises:
            ConfigurationError: That can't be done, or names would be too long.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            try_to_save(self.training)
        except (CheckpointWriteError, OSError, ValueError) as error:  # ValueError: a zero byte in the path
            raise ConfigurationError(
                f"checkpoints_path must be a directory that checkpoints can be written to, and {self.directory} isn't: "
                f"{error}. Choose another directory, or change what is wrong with this one."
            ) from error
        try:
            self.archived(10**12).lstat()  # the longest name
        except FileNotFoundError:
            return
        except OSError as error:
            raise ConfigurationError(
                f"base_checkpoint_filename is too long for the names of files in {self.directory}: {error}. "
                "Choose a shorter name."
            ) from error


def time_stamp() -> str:
    """A name of its own for each run, in the order of time: ``2024-02-29-12-30-00-123456``."""
    return datetime.now().astimezone().strftime("%Y-%m-%d-%H-%M-%S-%f")


def base_of(training_checkpoint: Path) -> str | None:
    """What the name of this training checkpoint starts with.

    >>> base_of(Path("checkpoints/mnist-training-checkpoint.safetensors"))
    'mnist'
    """
    base = training_checkpoint.name.removesuffix(_TRAINING)
    return base if base and base != training_checkpoint.name else None


def training_checkpoints_in(directory: Path) -> list[Path]:
    """All training checkpoints in a directory, those first that were saved last."""
    saved_at = {}
    for path in directory.iterdir() if directory.is_dir() else ():
        if base_of(path) is not None:
            with contextlib.suppress(FileNotFoundError):  # deleted just now
                saved_at[path] = _saved_at(path)
    return sorted(saved_at, key=lambda path: (saved_at[path], path.name), reverse=True)


def _saved_at(path: Path) -> float:
    """By its own account, or by the file's where it has none that can be read: then it still counts, as damaged."""
    with contextlib.suppress(CheckpointError, TypeError, ValueError, OverflowError):
        saved_at: Any = checkpoints.describe(path).description.get("saved_at")
        return datetime.fromisoformat(saved_at).timestamp()
    return path.lstat().st_mtime  # of a link that leads nowhere its own


def facts(logs: Mapping[str, Any], backend: str, global_iter: int) -> dict[str, Any]:
    """What the files say about themselves, beside their kind."""
    current = logs["current"]
    return {
        "backend": backend,
        "saved_at": datetime.now(UTC).isoformat(),
        "global_iter": global_iter,
        "epoch": current["epoch"],
        "batch_step": current["batch_step"],
        "metrics": {
            path: number
            for name, values in current.items()
            if isinstance(values, Mapping)
            for path, number in numbers_in(values, name).items()
        },
    }


def numbers_in(values: Mapping[str, Any], path: str) -> dict[str, int | float]:
    """Every plain number, by its metric path.

    >>> numbers_in({"dataset": {"loss": 0.5, "f1": {"cat": 1}, "matrix": (1, 2), "is_good": True}}, "validation")
    {'validation.dataset.loss': 0.5, 'validation.dataset.f1.cat': 1}
    """
    found: dict[str, int | float] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= numbers_in(value, f"{path}.{name}")
        elif isinstance(value, float):
            found[f"{path}.{name}"] = float(value)  # numpy's float64 is one too, but not what JSON holds
        elif isinstance(value, int) and not isinstance(value, bool):
            found[f"{path}.{name}"] = int(value)
    return found
