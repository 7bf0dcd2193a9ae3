"""What batches in parts cost: the peak memory of training, and the time beside the host trainer's own way.

    python benchmarks/memory.py pytorch
    python benchmarks/memory.py tensorflow
    python benchmarks/memory.py jax

Memory: the peak of the process's resident set while a few batches are trained, less what was there right before the
first of them. Each training has processes of its own, whose malloc gives big arrays back to the system as soon as they
are freed. The first batch isn't counted, in which everything is compiled, but what it leaves behind is.

Time: of one update by 8 x 32 samples, by mlpug in both of its ways and by Lightning's `accumulate_grad_batches` or the
`gradient_accumulation_steps` of Keras's optimizer, side by side in one process. The clock is read when an epoch starts
and when all it computed is there; the first epoch isn't timed. Nobody logs or shows anything.

The model is a deep network on each of many positions of a sample, one thread: activations take far more than weights.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from measure import interleaved, print_medians, print_ratio, print_ratio_header, silence

SMALL, LARGE = 32, 256  # samples
PARTS = LARGE // SMALL
FEATURES = 16  # of a position
NUM_CLASSES = 10
BATCHES = 4  # that are trained where the memory is measured

WHOLE_SMALL = f"batch {SMALL}, whole"
WHOLE_LARGE = f"batch {LARGE}, whole"
CHUNKED = f"batch {LARGE} in chunks of {SMALL}"
ACCUMULATED = f"{PARTS} batches of {SMALL}"

# name: (samples in a batch of the dataset, how many of them make one batch, arguments of the trainer)
WAYS: dict[str, tuple[int, int, dict[str, int]]] = {
    WHOLE_SMALL: (SMALL, 1, {}),
    WHOLE_LARGE: (LARGE, 1, {}),
    CHUNKED: (LARGE, 1, {"batch_chunk_size": SMALL}),
    ACCUMULATED: (SMALL, PARTS, {"gradient_accumulation_steps": PARTS}),
}
MALLOC = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backend", choices=["pytorch", "tensorflow", "jax"])
    parser.add_argument("--processes", type=int, default=3, help="of each training whose memory is measured")
    parser.add_argument("--blocks", type=int, default=9, help="blocks of each contestant; 3 go through every rotation")
    parser.add_argument("--updates", type=int, default=2, help="timed updates in a block")
    parser.add_argument("--positions", type=int, default=128, help="of a sample")
    parser.add_argument("--width", type=int, default=128, help="of each layer")
    parser.add_argument("--depth", type=int, default=8, help="layers")
    parser.add_argument("--peak-of", choices=WAYS, help="print the peak of this training in MB, and nothing else")
    return parser.parse_args()


OPTIONS = arguments()
ON_PYTORCH = OPTIONS.backend == "pytorch"
os.environ["KERAS_BACKEND"] = OPTIONS.backend  # Keras settles it for the process when it is imported
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
mlp = importlib.import_module(f"mlpug.{OPTIONS.backend}")

OURS_CHUNKED = f"mlpug, {CHUNKED}"
OURS_ACCUMULATED = f"mlpug, {ACCUMULATED}"
NATIVE = f"{'Lightning' if ON_PYTORCH else 'fit'}, {ACCUMULATED}"


def made_batches(samples: int, count: int) -> list[tuple[Any, Any]]:
    """Batches in memory, a few different ones; for PyTorch as tensors."""
    generator = np.random.default_rng(1)
    different: list[tuple[Any, Any]] = [
        (
            generator.random((samples, OPTIONS.positions, FEATURES), dtype=np.float32),
            generator.integers(NUM_CLASSES, size=samples),
        )
        for _ in range(min(count, PARTS))
    ]
    if ON_PYTORCH:
        from_numpy = importlib.import_module("torch").from_numpy
        different = [(from_numpy(inputs), from_numpy(labels)) for inputs, labels in different]
    return [different[index % len(different)] for index in range(count)]


def pytorch_training() -> tuple[Any, Any, Any]:
    """(classifier, training model, optimizer) on PyTorch."""
    import torch

    class MeanOverPositions(torch.nn.Module):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return hidden.mean(dim=1)

    class TrainModel(torch.nn.Module):
        def __init__(self, classifier: torch.nn.Module) -> None:
            super().__init__()
            self.classifier = classifier

        def forward(self, batch_data: Any, evaluate_settings: Any = None, inference_mode: Any = None) -> Any:
            inputs, labels = batch_data
            return torch.nn.functional.cross_entropy(self.classifier(inputs), labels)

    torch.manual_seed(0)
    widths = [FEATURES, *[OPTIONS.width] * OPTIONS.depth]
    hidden = [
        layer for before, after in zip(widths, widths[1:]) for layer in (torch.nn.Linear(before, after), torch.nn.GELU())
    ]
    classifier = torch.nn.Sequential(*hidden, MeanOverPositions(), torch.nn.Linear(OPTIONS.width, NUM_CLASSES))
    return classifier, TrainModel(classifier), torch.optim.Adam(classifier.parameters())


def keras_training() -> tuple[Any, Any, dict[str, Any]]:
    """The same on Keras, without the optimizer, which is made for the way to train; and the loss function."""
    import keras

    class TrainModel(keras.Model):
        def __init__(self, classifier: keras.Model) -> None:
            super().__init__()
            self.classifier = classifier
            self.loss_func = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

        def call(self, batch_data: Any, evaluate_settings: Any = None, inference_mode: Any = None) -> Any:
            inputs, labels = batch_data
            return self.loss_func(labels, self.classifier(inputs))

    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    hidden = [keras.layers.Dense(OPTIONS.width, activation="gelu") for _ in range(OPTIONS.depth)]
    classifier = keras.Sequential(
        [
            keras.Input((OPTIONS.positions, FEATURES)),
            *hidden,
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(NUM_CLASSES),
        ]
    )
    return classifier, TrainModel(classifier), keras.optimizers.Adam()


def train_mlpug(way: str, num_batches: int, num_epochs: int, callback: Any) -> None:
    """Nothing but training, and a callback that measures."""
    samples, group_size, parts = WAYS[way]
    classifier, train_model, optimizer = (pytorch_training if ON_PYTORCH else keras_training)()
    host_arguments = {"accelerator": "cpu", "devices": 1} if ON_PYTORCH else {}
    trainer = mlp.trainers.DefaultTrainer(
        optimizers=optimizer, model_components=classifier, **parts, **host_arguments
    )
    trainer.set_training_model(train_model)
    callback.classifier = classifier
    dataset = made_batches(samples, num_batches * group_size)
    mlp.trainers.TrainingManager(trainer, dataset, num_epochs=num_epochs, callbacks=[callback]).start_training()


def resident(what: str) -> float:
    """MB, of a line of the process's status."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (value,) = (line.split()[1] for line in lines if line.startswith(f"{what}:"))
    return int(value) / 1000


class Peak(mlp.callbacks.Callback):
    """Measures between the start of the first batch and the end of the last one."""

    before = 0.0
    first = 0.0

    def on_batch_training_start(self, batch: Any, logs: Any) -> None:
        if logs["current"]["global_iter"] == 0:
            self.before = resident("VmRSS")

    def on_batch_training_completed(self, batch: Any, logs: Any) -> None:
        if logs["current"]["global_iter"] == 0:
            self.first = resident("VmHWM") - self.before
            wait_for(self.classifier)
            self.after = resident("VmRSS") - self.before
            Path("/proc/self/clear_refs").write_text("5")  # the peak is from now on

    def on_training_ended(self, logs: Any, **_: Any) -> None:
        wait_for(self.classifier)
        self.peak = resident("VmHWM") - self.before


def wait_for(classifier):
    if OPTIONS.backend == "jax":
        importlib.import_module("jax").block_until_ready([v.value for v in classifier.variables])
if __name__ == "__main__":
    p = Peak()
    if OPTIONS.peak_of:
        import torch
        train_mlpug(OPTIONS.peak_of, BATCHES, 1, p)
        print(OPTIONS.peak_of, p.before, "first", p.first, "after", p.after, "peak", p.peak)
