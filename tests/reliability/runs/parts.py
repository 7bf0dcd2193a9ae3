"""What the runs on every host share: what they write down, what disturbs them, and what has to be equal in the end."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import random
import shutil
from collections.abc import Callable
from typing import Any

import numpy as np

from mlpug import checkpoints
from mlpug.callbacks import Callback, CheckpointManager, TestMetricsLogger, TrainingMetricsLogger
from mlpug.evaluation import MetricEvaluator
from mlpug.trainers import TrainingManager

CHECKPOINT = "run-training-checkpoint.safetensors"


@dataclasses.dataclass(frozen=True, slots=True)
class Settings:
    """A run that is to be made; from the seed alone comes everything that is drawn."""

    kind: str  # of data, one of the host's KINDS
    seed: int
    folder: str  # of the checkpoints
    num_epochs: int = 3
    patience: int = 3  # epochs without a better validation loss, after which it stops
    checkpoints: dict[str, Any] = dataclasses.field(default_factory=dict)  # more arguments of the CheckpointManager
    journal: str | None = None  # a file that each batch's record is appended to
    keep: str | None = None  # a folder in which the state of each rest is kept


@dataclasses.dataclass(frozen=True, slots=True)
class WholeRun:
    """A run that was made; each needs a fresh one."""

    manager: TrainingManager
    record: Record
    weights: Callable[[], dict[str, np.ndarray]]
    native_state: Callable[[], Any]  # what the host's own callbacks remember, as numbers and texts

    def train(self, resume_from: Any = None) -> WholeRun:
        self.manager.start_training(resume_from=resume_from)
        return self

    def outcome(self) -> dict[str, Any]:
        """All that has to be equal, as JSON holds it; durations aren't."""
        logs = self.manager.logs.snapshot()
        for of in ("current", "best"):
            logs.get(of, {}).pop("training_params", None)
        native = json.loads(json.dumps(self.native_state()))
        return {"weights": digest(self.weights()), "rows": self.record.rows, "logs": repr(logs), "native": native}


class Places:
    """What a run calls as it comes by: here, nothing happens.

    "data" and "model" are passed only where Python is called.
    """

    NAMES = (
        *("start", "data", "model", "batch", "evaluation", "native", "epoch end", "state", "fsync", "replace", "end"),
        "resuming",
    )

    def __call__(self, place: str) -> None:
        assert place in self.NAMES


class Record(Callback):
    """Writes down what each batch and each epoch gave, and draws random numbers as others might."""

    def __init__(self, journal: str | None, draw: Callable[[], list[float]], passed: Places) -> None:
        self.rows: list[list[Any]] = []
        self._journal = journal
        self._draw = draw
        self._passed = passed

    def on_training_start(self, logs: Any) -> None:
        self._passed("start")

    def on_batch_training_completed(self, batch: Any, logs: Any) -> None:
        self._passed("batch")
        current = logs["current"]
        position = [current["epoch"], current["batch_step"], current["global_iter"]]
        metrics = ("training.batch.loss", "training.sliding_window.loss", "training_params.batch.lr")
        numbers = [float(logs.at(path)) for path in metrics]
        drawn = [random.random(), float(np.random.random()), *self._draw()]
        self._write(["batch", *position, np.asarray(batch[0]).tolist(), *numbers, *drawn])

    def on_epoch_completed(self, logs: Any) -> None:
        self._passed("epoch end")
        self._write(["epoch", logs["epoch"], float(logs.at("validation.dataset.loss"))])

    def on_training_ended(self, logs: Any, **outcome: Any) -> None:
        self._passed("end")

    def get_state(self) -> Any:
        self._passed("state")
        return {}

    def set_state(self, state: Any) -> None:
        self._passed("resuming")

    def _write(self, row: list[Any]) -> None:
        self.rows.append(row)
        if self._journal is not None:
            journal = os.open(self._journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            try:
                os.write(journal, json.dumps(row).encode() + b"\n")
            finally:
                os.close(journal)


class Keep(Callback):
    """Keeps the state of each rest: of a batch the CheckpointManager's file, which an epoch's end doesn't write."""

    def __init__(self, folder: str, checkpoint: pathlib.Path) -> None:
        self._folder = pathlib.Path(folder)
        self._checkpoint = checkpoint
        self._count = 0
        self._ended = "batch"

    def on_batch_training_completed(self, batch: Any, logs: Any) -> None:
        self._ended = "batch"

    def on_epoch_completed(self, logs: Any) -> None:
        self._ended = "epoch"

    def on_rest(self, logs: Any, is_last: bool) -> None:
        if is_last:
            return
        kept = kept_state(self._folder, self._count)
        self._count += 1
        if self._ended == "batch":
            shutil.copy(self._checkpoint, kept)
        else:
            checkpoints.save(kept, self.manager.get_state())


class Watched:
    """A dataset whose batches are passed places: those of the evaluation."""

    def __init__(self, batches: list[Any], passed: Places) -> None:
        self._batches = batches
        self._passed = passed

    def __iter__(self) -> Any:
        for batch in self._batches:
            self._passed("evaluation")
            yield batch


def kept_state(folder: str | pathlib.Path, rest: int) -> pathlib.Path:
    """The file in which `Keep` keeps the state of a rest, counted from 0."""
    return pathlib.Path(folder) / f"{rest}.safetensors"


def manager_of(
    settings: Settings,
    trainer: Any,
    dataset: Any,
    validation: list[Any],
    record: Record,
    of_host: list[Any],
    passed: Places,
) -> TrainingManager:
    """The run around the host's own parts."""
    evaluator = MetricEvaluator(trainer=trainer)
    options = {"metric_to_monitor": "training.sliding_window.loss", "metric_monitor_period": 1}
    saves = CheckpointManager(
        settings.folder, "run", **{**options, "create_checkpoint_every": 1, **settings.checkpoints}
    )
    keep = [] if settings.keep is None else [Keep(settings.keep, pathlib.Path(settings.folder) / CHECKPOINT)]
    callbacks = [
        TrainingMetricsLogger(metric_evaluator=evaluator, sliding_window_length=4),
        TestMetricsLogger(Watched(validation, passed), "validation", metric_evaluator=evaluator, batch_level=False),
        *of_host,
        record,
        saves,
        *keep,
    ]
    return TrainingManager(trainer, dataset, num_epochs=settings.num_epochs, callbacks=callbacks)


def digest(weights: dict[str, np.ndarray]) -> str:
    """The same for the same bits, and names, types and shapes."""
    found = hashlib.sha256()
    for name, weight in weights.items():
        found.update(repr((name, weight.dtype.str, weight.shape)).encode())
        found.update(np.ascontiguousarray(weight).tobytes())
    return found.hexdigest()
