"""What a look at each batch's loss and gradients costs: on_non_finite="raise" beside "ignore", in one process.

    python benchmarks/non_finite.py pytorch
    python benchmarks/non_finite.py tensorflow
    python benchmarks/non_finite.py jax

Two models, one thread: Hello World's, so small that the time is the loop's, and one of some milliseconds a batch.
"""

from __future__ import annotations

import argparse
import importlib
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from measure import TimedBatches, interleaved, print_medians, print_ratio, print_ratio_header

EPOCHS = 2  # in the first, all is compiled


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backend", choices=["pytorch", "tensorflow", "jax"])
    parser.add_argument("--blocks", type=int, default=12, help="blocks of each contestant")
    parser.add_argument("--threads", type=int, default=1, help="of the backend; JAX has one, or all")
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu", help="gpu: PyTorch's alone")
    return parser.parse_args()


OPTIONS = arguments()
if OPTIONS.threads == 1:
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
mlp = importlib.import_module(f"mlpug.{OPTIONS.backend}")

# name: (width of both hidden layers, samples in a batch, timed batches in an epoch)
SIZES = {"small": (128, 32, 500), "large": (1024, 128, 40)}
NUM_CLASSES = 10


def made_batches(samples: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Batches in memory."""
    generator = np.random.default_rng(1)
    return [
        (generator.random((samples, 784), dtype=np.float32), generator.integers(NUM_CLASSES, size=samples))
        for _ in range(8)
    ]


def pytorch_training(width: int) -> tuple[Any, Any, Any]:
    """(classifier, training model, optimizer) on PyTorch."""
    import torch

    class TrainModel(torch.nn.Module):
        def __init__(self, classifier: torch.nn.Module) -> None:
            super().__init__()
            self.classifier = classifier

        def forward(self, batch_data: Any, evaluate_settings: Any = None, inference_mode: Any = None) -> Any:
            images, labels = batch_data
            return torch.nn.functional.cross_entropy(self.classifier(images), labels)

    torch.manual_seed(0)
    hidden = [torch.nn.Linear(784, width), torch.nn.ReLU()]
    if width > 128:
        hidden += [torch.nn.Linear(width, width), torch.nn.BatchNorm1d(width), torch.nn.ReLU()]
    classifier = torch.nn.Sequential(*hidden, torch.nn.Linear(width, NUM_CLASSES))
    return classifier, TrainModel(classifier), torch.optim.Adam(classifier.parameters())


def keras_training(width: int) -> tuple[Any, Any, Any]:
    """The same on Keras."""
    import keras

    class TrainModel(keras.Model):
        def __init__(self, classifier: keras.Model) -> None:
            super().__init__()
            self.classifier = classifier
            self.loss_func = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

        def call(self, batch_data: Any, evaluate_settings: Any = None, inference_mode: Any = None) -> Any:
            images, labels = batch_data
            return self.loss_func(labels, self.classifier(images))

    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    hidden = [keras.Input((784,)), keras.layers.Dense(width, activation="relu")]
    if width > 128:
        hidden += [keras.layers.Dense(width), keras.layers.BatchNormalization(), keras.layers.ReLU()]
    classifier = keras.Sequential([*hidden, keras.layers.Dense(NUM_CLASSES)])
    return classifier, TrainModel(classifier), keras.optimizers.Adam()


def block(size: str, on_non_finite: str) -> float:
    """µs a batch."""
    width, samples, num_batches = SIZES[size]
    on_pytorch = OPTIONS.backend == "pytorch"
    classifier, train_model, optimizer = (pytorch_training if on_pytorch else keras_training)(width)
    host_arguments = {"accelerator": OPTIONS.device, "devices": 1} if on_pytorch else {}
    trainer = mlp.trainers.DefaultTrainer(
        optimizers=optimizer, model_components=classifier, on_non_finite=on_non_finite, **host_arguments
    )
    trainer.set_training_model(train_model)
    dataset = TimedBatches(made_batches(samples), num_batches)
    last = ReadTheLastLoss()
    mlp.trainers.TrainingManager(trainer, dataset, num_epochs=EPOCHS, callbacks=[last]).start_training()
    return dataset.microseconds_a_batch(first_epoch=1)


class ReadTheLastLoss(mlp.callbacks.Callback):
    """Waits for the device at the last timed batch: else the work of "ignore" would be over after the clock stops."""

    def on_batch_training_completed(self, batch: Any, logs: Any) -> None:
        if logs["current"]["batch_step"] == logs["final_batch_step"] - 1:
            self.manager.trainer.adapter.to_host(self.manager.step_output.loss)


def set_threads() -> None:
    if OPTIONS.backend == "pytorch":
        importlib.import_module("torch").set_num_threads(OPTIONS.threads)
    elif OPTIONS.backend == "tensorflow":
        threading = importlib.import_module("tensorflow").config.threading
        threading.set_inter_op_parallelism_threads(OPTIONS.threads)
        threading.set_intra_op_parallelism_threads(OPTIONS.threads)


def main() -> None:
    set_threads()
    contestants: dict[str, Callable[[], float]] = {
        f"{size}, {choice}": partial(block, size, choice) for size in SIZES for choice in ("ignore", "raise")
    }
    interleaved(contestants, rounds=1)  # what is slow only once in a process
    measured = interleaved(contestants, OPTIONS.blocks)
    print(f"{OPTIONS.backend}: {OPTIONS.blocks} blocks of each")
    print_medians("a batch", measured)
    print_ratio_header()
    for size in SIZES:
        print_ratio(f"{size}: raise / ignore", measured[f"{size}, raise"], measured[f"{size}, ignore"], "<= 1.02")


if __name__ == "__main__":
    main()
