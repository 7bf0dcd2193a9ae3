"""What a checkpoint costs: beside the same bytes written plainly, beside torch.save and torch.load, beside Lightning's.

    python benchmarks/checkpoints.py --sizes 10 200 1000     # MB of state; needs mlpug[pytorch]
    python benchmarks/checkpoints.py --sizes 10 --tensors 5000

With `save_in_background` what counts is how long training stands still: beside one copy of the same arrays, by a module
with that many weights that a CheckpointManager saves after the first of two batches.

All write to the same directory, to files that are not there yet, and end on disk: those that don't flush their file are
given an `os.fsync`. mlpug's has the digests as well, and the flush of the directory. Loading finds its file in the
system's cache, so what is left is copying and verifying. Lightning's flushes nothing itself, and is shown as it is too.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure import interleaved, print_medians, print_ratio, print_ratio_header
from pytorch_lightning import Trainer

import mlpug.pytorch as mlp
from mlpug import checkpoints

State = dict[str, Any]


def state_of(megabytes: int, num_tensors: int) -> State:
    """Random float32 in that many tensors of the same size, as a model, and a few numbers."""
    random = np.random.default_rng(0)
    length = megabytes * 250_000 // num_tensors
    weights = {f"layer{index}/weight": random.random(length, np.float32) for index in range(num_tensors)}
    return {"model": weights, "manager": {"epoch": 3, "global_iter": 1200, "best": 0.5}}


def in_torch(state: State) -> State:
    """The same, of tensors that share the arrays' memory."""
    return state | {"model": {name: torch.from_numpy(array) for name, array in state["model"].items()}}


def flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def write_plainly(state: State, path: Path) -> None:
    """The bytes of the arrays, one after the other, and on disk."""
    with path.open("wb", buffering=0) as file:
        for array in state["model"].values():
            rest = memoryview(array).cast("B")
            while rest:
                rest = rest[file.write(rest) :]
        os.fsync(file.fileno())


def save_in_torch(state: State, path: Path) -> None:
    torch.save(state, path)
    flush(path)


def save_in_lightning(trainer: Trainer, state: State, path: Path, flushed: bool) -> None:
    trainer.strategy.checkpoint_io.save_checkpoint(state, path)
    if flushed:
        flush(path)


def timed_save(save: Callable[[Path], Any], path: Path) -> float:
    """Microseconds; what is waiting to be written beforehand is, and the file is removed after."""
    path.unlink(missing_ok=True)
    os.sync()
    seconds = timed(partial(save, path))
    path.unlink()
    return seconds


def timed(function: Callable[[], Any]) -> float:
    """Microseconds."""
    started = time.perf_counter()
    result = function()
    elapsed = time.perf_counter() - started
    del result
    return elapsed * 1e6


def compare_saving(state: State, directory: Path, rounds: int) -> None:
    trainer = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu")
    tensors = in_torch(state)
    saves: dict[str, Callable[[Path], Any]] = {
        "plain write + fsync": partial(write_plainly, state),
        "mlpug save": lambda path: checkpoints.save(path, state),
        "torch.save + fsync": partial(save_in_torch, tensors),
        "Lightning save + fsync": partial(save_in_lightning, trainer, tensors, flushed=True),
        "Lightning save": partial(save_in_lightning, trainer, tensors, flushed=False),
    }
    contestants = {name: partial(timed_save, save, directory / "saved") for name, save in saves.items()}
    measured = interleaved(contestants, rounds)
    print_medians("saving", measured)
    print_ratio_header()
    ours = measured["mlpug save"]
    print_ratio("mlpug / plain write + fsync", ours, measured["plain write + fsync"], "<= 1.5")
    print_ratio("mlpug / torch.save + fsync", ours, measured["torch.save + fsync"])
    print_ratio("mlpug / Lightning save + fsync", ours, measured["Lightning save + fsync"])
    print_ratio("mlpug / Lightning save, not flushed", ours, measured["Lightning save"])


def compare_loading(state: State, directory: Path, rounds: int) -> None:
    checkpoints.save(directory / "mlpug", state)
    torch.save(in_torch(state), directory / "torch")
    measured = interleaved(
        {
            "torch.load": lambda: timed(lambda: torch.load(directory / "torch", weights_only=True)),
            "mlpug load": lambda: timed(lambda: checkpoints.load(directory / "mlpug")),
            "mlpug verify": lambda: timed(lambda: checkpoints.verify(directory / "mlpug")),
        },
        rounds,
    )
    print_medians("loading", measured)
    print_ratio_header()
    print_ratio("mlpug load / torch.load", measured["mlpug load"], measured["torch.load"], "<= 1.5")
    print_ratio("mlpug verify / torch.load", measured["mlpug verify"], measured["torch.load"])


class Standstill(mlp.callbacks.CheckpointManager):
    """Holds the clock while the first state is taken."""

    microseconds = 0.0

    def on_rest(self, logs: Any, is_last: bool) -> None:
        started = time.perf_counter()
        super().on_rest(logs, is_last)
        self.microseconds = self.microseconds or (time.perf_counter() - started) * 1e6


class TrainModel(torch.nn.Module):
    """Trains one number; the other weights are only there."""

    def __init__(self, weights: torch.nn.ParameterDict) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, batch_data: Any, evaluate_settings: Any, inference_mode: Any = None) -> Any:
        return (self.weights["trained"] * batch_data).sum()


def standstill(state: State, directory: Path) -> float:
    weights = {name.replace("/", "_"): torch.from_numpy(array) for name, array in state["model"].items()}
    parameters = torch.nn.ParameterDict({"trained": torch.zeros(1), **weights})
    optimizer = torch.optim.SGD(parameters.parameters(), lr=0.1)
    trainer = mlp.trainers.DefaultTrainer(optimizers=optimizer, model_components=parameters, accelerator="cpu")
    saves = Standstill(
        directory,
        "run",
        metric_to_monitor=None,
        create_checkpoint_every=1,
        save_in_background=True,
        create_latest_model_checkpoint=False,
    )
    manager = mlp.trainers.TrainingManager(trainer, [torch.ones(1)] * 2, callbacks=[saves])
    trainer.set_training_model(TrainModel(parameters))
    give_back_memory()
    manager.start_training()
    return saves.microseconds


def copy(state: State) -> float:
    give_back_memory()
    return timed(lambda: [array.copy() for array in state["model"].values()])


def give_back_memory() -> None:
    """To the system, or what was copied into before would be there to be copied into again: that takes a tenth."""
    ctypes.CDLL(None).malloc_trim(0)


def compare_standing_still(state: State, directory: Path, rounds: int) -> None:
    measured = interleaved(
        {
            "one copy of the arrays": lambda: copy(state),
            "mlpug, in the background": lambda: standstill(state, directory),
        },
        rounds,
    )
    print_medians("standing still", measured)
    print_ratio_header()
    ours, copying = measured["mlpug, in the background"], measured["one copy of the arrays"]
    print_ratio("mlpug / one copy", ours, copying, "<= 1.3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[10, 200, 1000], help="MB of state")
    parser.add_argument("--tensors", type=int, default=60, help="into how many tensors they are divided")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--directory", help="on which disk; the system's place for temporary files if not given")
    chosen = parser.parse_args()
    for megabytes in chosen.sizes:
        print(f"\n== {megabytes} MB in {chosen.tensors} tensors")
        state = state_of(megabytes, chosen.tensors)
        with tempfile.TemporaryDirectory(dir=chosen.directory) as directory:
            compare_saving(state, Path(directory), chosen.rounds)
            compare_loading(state, Path(directory), chosen.rounds)
            compare_standing_still(state, Path(directory), chosen.rounds)


if __name__ == "__main__":
    main()
