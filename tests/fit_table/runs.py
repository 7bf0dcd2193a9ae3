"""A row of the table of what ``fit`` takes, trained by ``fit``, by mlpug, and by mlpug stopped and resumed."""

import functools
import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from compiled_models import NativeLogs, OurLogs

from mlpug.callbacks import Callback, CheckpointManager
from mlpug.trainers import TrainingManager

SEED = 5


@dataclass(frozen=True)
class Kind:
    """Training data in one of the forms that ``fit`` takes.

    Attributes:
        data: makes it: what ``fit`` calls x, or a tuple ``(x, y)`` or ``(x, y, sample_weight)``.
        make: makes the compiled model, by whether it is built already.
        options: what ``fit`` and ``from_keras`` are told about the data, by the same names.
        steps: ``fit``'s steps_per_epoch.
        lengths: how many batches ``fit`` trains on in each epoch.
        seed_stays: whether the order comes from TensorFlow's seed at the moment in which the script makes the data, so
            that a script which sets another one has other data.
        resumed_warns: what mlpug says where a run on this can't go on exactly; None: it can.
    """

    data: Callable[[], Any]
    make: Mapping[bool, Callable[[], keras.Model]]
    options: Mapping[str, Any] = field(default_factory=dict)
    steps: int | None = None
    lengths: tuple[int, ...] = (4, 4, 4)
    seed_stays: bool = False
    resumed_warns: str | None = None


@dataclass(frozen=True, eq=False)
class Row:
    """A kind of data, whether the model is built before it is trained, and how it is validated."""

    name: str
    kind: Kind
    is_built: bool
    validation: Callable[[], Mapping[str, Any]]  # makes arguments of fit and from_keras


@dataclass(frozen=True)
class Outcome:
    """All that a run leaves, and what it told callbacks."""

    state: Mapping[str, tuple[Any, ...]]  # of each variable: its place, type, shape and bytes
    logs: list[Any]  # of Keras's hooks
    epochs: list[Any]  # of mlpug's logs: epoch, metrics of training, metrics of validation
    num_batches: int  # that this run, not the one that it goes on from, has trained on


class Reads(NativeLogs):
    """Notes what Keras's callbacks are given, also where they ask for what isn't among it, as EarlyStopping does."""

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        self.seen.append(("asked", epoch, (logs or {}).get("val_loss")))


class StopsAt(Callback):
    """Stops training after a batch, or after an epoch where the step is None."""

    def __init__(self, epoch: int, step: int | None):
        self.epoch, self.step = epoch, step

    def on_batch_training_completed(self, batch, logs):
        if (logs["current"]["epoch"], logs["current"]["batch_step"]) == (self.epoch, self.step):
            self.manager.stop_training()

    def on_epoch_completed(self, logs):
        if (logs["current"]["epoch"], None) == (self.epoch, self.step):
            self.manager.stop_training()


def places(row: Row) -> dict[str, tuple[int, int | None]]:
    """Where a run is stopped: in which epoch, and after which batch of it, or after the epoch where that is None."""
    lengths = row.kind.lengths
    if len(lengths) == 1:
        return {"first batch": (0, 0), "within epoch 0": (0, 1)}
    within = {"within epoch 1": (1, 1)} if lengths[1] > 2 else {}
    return {"first batch": (0, 0), "end of epoch 0": (0, None), **within, "last of epoch 1": (1, lengths[1] - 1)}


def num_left(row: Row, epoch: int, step: int | None) -> int:
    """How many batches come after this place."""
    lengths = row.kind.lengths
    return sum(lengths[epoch:]) - (lengths[epoch] if step is None else step + 1)


def seed_all(seed: int, tensorflow: int) -> None:
    """Seed each library that is loaded, TensorFlow with a seed of its own."""
    keras.utils.set_random_seed(seed)
    if "tensorflow" in sys.modules:
        sys.modules["tensorflow"].random.set_seed(tensorflow)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)


@functools.cache
def by_fit(row: Row) -> Outcome:
    """The run that everything is compared with."""
    seed_all(SEED, SEED)
    given, validation, model, logs = row.kind.data(), row.validation(), row.kind.make[row.is_built](), Reads()
    x, y, sample_weight = (*given, None, None)[:3] if isinstance(given, tuple) else (given, None, None)
    model.fit(
        x,
        y,
        sample_weight=sample_weight,
        epochs=len(row.kind.lengths),
        steps_per_epoch=row.kind.steps,
        verbose=0,
        callbacks=[logs],
        **row.kind.options,
        **validation,
    )
    return Outcome(state_of(model), logs.seen, _epochs_in(logs.seen), _count(logs.seen))


def by_mlpug(mlp, row: Row, *callbacks: Callback, resume_from=None, seed: int = SEED) -> Outcome:
    """The same by mlpug, in a run of its own: with everything made anew."""
    seed_all(seed, SEED if row.kind.seed_stays else seed)
    given, validation, model = row.kind.data(), row.validation(), row.kind.make[row.is_built]()
    trainer = mlp.trainers.DefaultTrainer.from_keras(model, **row.kind.options, **validation)
    logs, ours = Reads(), OurLogs()
    manager = TrainingManager(
        trainer,
        given,
        num_epochs=len(row.kind.lengths),
        num_batches_per_epoch=row.kind.steps,
        callbacks=[*callbacks, logs, ours],
    )
    manager.start_training(resume_from=resume_from)
    epochs = [seen[1:] for seen in ours.seen if seen[0] == "epoch_end"]
    epochs = [(epoch, training, (validated or {}).get("dataset", {})) for epoch, training, validated in epochs]
    return Outcome(state_of(model), logs.seen, epochs, _count(ours.seen))


def resumed(mlp, row: Row, folder, epoch: int, step: int | None) -> Outcome:
    """The run stopped there, and gone on with by another that knows nothing of it but its checkpoint."""

    def checkpoints():
        return CheckpointManager(folder, "run", metric_to_monitor=None, create_checkpoint_every=1000)

    by_mlpug(mlp, row, checkpoints(), StopsAt(epoch, step))
    random.seed(99)
    np.random.seed(98)
    return by_mlpug(mlp, row, checkpoints(), resume_from="auto", seed=1000)


def state_of(model: keras.Model) -> dict[str, tuple[Any, ...]]:
    """Weights, seeds, optimizer and metrics, in bits."""
    groups = {
        "model": model.variables,
        "optimizer": model.optimizer.variables,
        "metrics": model.metrics_variables,
    }
    return {
        f"{group} {place} {variable.path}": _in_bits(variable.value)
        for group, variables in groups.items()
        for place, variable in enumerate(variables)
    }


def differences(one: Outcome, expected: Outcome) -> list[str]:
    """What isn't the same. Of a run that went on from a checkpoint mlpug's logs are those since then."""
    counts = [(len(each.state), len(each.logs)) for each in (one, expected)]
    if counts[0] != counts[1]:
        return ["{} variables and {} calls of hooks".format(*each) for each in counts]
    found = [
        f"{name}: {_readable(value)}, not {_readable(other)}"
        for (name, value), other in zip(one.state.items(), expected.state.values(), strict=True)
        if value != other
    ]
    epochs = expected.epochs[len(expected.epochs) - len(one.epochs) :]
    pairs = [*zip(one.logs, expected.logs, strict=True), *zip(one.epochs, epochs, strict=True)]
    return found + [f"said {seen}, not {other}" for seen, other in pairs if seen != other]


def _epochs_in(seen):
    """As mlpug's logs have them: after an epoch without a validation they still have the latest one."""
    epochs, validated = [], {}
    for epoch, logs in [(number, logs) for kind, number, logs in seen if kind == "epoch_end"]:
        new = {name.removeprefix("val_"): value for name, value in logs.items() if name.startswith("val_")}
        validated = new or validated
        training = {name: value for name, value in logs.items() if not name.startswith("val_")}
        epochs.append((epoch, training, validated))
    return epochs


def _count(seen):
    return sum(kind == "batch_end" for kind, *_ in seen)


def _in_bits(value):
    array = np.asarray(value.numpy() if hasattr(value, "numpy") else value)  # of several devices, too
    return array.dtype.name, array.shape, array.tobytes()


def _readable(bits):
    dtype, shape, content = bits
    return np.frombuffer(content, dtype).reshape(shape).ravel()[:3].tolist()
