"""What a batch in parts costs: the peak memory of training, and its time beside the host trainer's own way.

    taskset -c 1 python benchmarks/memory.py pytorch
    taskset -c 1 python benchmarks/memory.py tensorflow
    taskset -c 1 python benchmarks/memory.py jax

Memory: the peak of the process's resident set while a few batches are trained, less what it was right before the first
of them. The peak is taken from the second batch on: in the first everything is compiled, which needs memory of its own.
What the first leaves behind counts. Each training has a process of its own, several times, with a malloc that gives
back big arrays to the system as soon as they are freed: so what was freed isn't taken for what is used.

Time: of an update by 8 x 32 samples, by both of mlpug's ways, and by Lightning's `accumulate_grad_batches` or the
`gradient_accumulation_steps` of Keras's optimizer, interleaved in one process. The clock runs from the start of an
epoch until all that it computed is there; the first epoch isn't timed. Nobody logs or shows anything.

The model is an MLP of many layers on each of many positions of a sample, so that activations take far more memory than
weights; one thread. With a larger --width, weights count for more: of their size are also the gradients, what Adam
keeps and, while a batch in parts is computed, the sum of the gradients of the parts before.
"""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
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
BATCHES = 3  # that are trained where the memory is measured
TIMED_EPOCHS = 1  # after one in which everything is compiled

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
    parser.add_argument("--blocks", type=int, default=6, help="blocks of each contestant; 3 go through every rotation")
    parser.add_argument("--updates", type=int, default=2, help="timed updates in a block")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="time of this process instead of the wall's: on one core the same, but for what other programs take of it",
    )
    parser.add_argument("--positions", type=int, default=96, help="of a sample")
    parser.add_argument("--width", type=int, default=128, help="of each layer")
    parser.add_argument("--depth", type=int, default=8, help="layers")
    parser.add_argument("--peak-of", choices=WAYS, help="print the peak of this training in MB, and nothing else")
    return parser.parse_args()


OPTIONS = arguments()
now = time.process_time if OPTIONS.cpu_time else time.perf_counter
ON_PYTORCH = OPTIONS.backend == "pytorch"
os.environ["KERAS_BACKEND"] = OPTIONS.backend  # Keras settles it for the process when it is imported
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
mlp = importlib.import_module(f"mlpug.{OPTIONS.backend}")

OURS_CHUNKED = f"mlpug, {CHUNKED}"
OURS_ACCUMULATED = f"mlpug, {ACCUMULATED}"
HOST = "Lightning" if ON_PYTORCH else "fit"
NATIVE = f"{HOST}, {ACCUMULATED}"


def made_batches(samples: int, count: int) -> Any:
    """Batches in memory: a list of tensors or of numpy arrays, or for TensorFlow a `tf.data.Dataset`."""
    generator = np.random.default_rng(1)
    inputs = generator.random((count, samples, OPTIONS.positions, FEATURES), dtype=np.float32)
    labels = generator.integers(NUM_CLASSES, size=(count, samples))
    if OPTIONS.backend == "tensorflow":
        tf = importlib.import_module("tensorflow")
        options = tf.data.Options()
        options.autotune.enabled = False  # on one core its threads make fit wait at the start of an epoch, up to 0.6 s
        return tf.data.Dataset.from_tensor_slices((inputs, labels)).with_options(options)
    if ON_PYTORCH:
        as_tensor = importlib.import_module("torch").from_numpy
        inputs, labels = as_tensor(inputs), as_tensor(labels)
    return list(zip(inputs, labels, strict=True))


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
    layers: list[torch.nn.Module] = []
    for inputs in [FEATURES, *[OPTIONS.width] * (OPTIONS.depth - 1)]:
        layers += [torch.nn.Linear(inputs, OPTIONS.width), torch.nn.GELU()]
    classifier = torch.nn.Sequential(*layers, MeanOverPositions(), torch.nn.Linear(OPTIONS.width, NUM_CLASSES))
    return classifier, TrainModel(classifier), torch.optim.Adam(classifier.parameters())


def keras_training(**optimizer_arguments: Any) -> tuple[Any, Any, Any]:
    """The same on Keras."""
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
    layers = [keras.layers.Dense(OPTIONS.width, activation="gelu") for _ in range(OPTIONS.depth)]
    mean = keras.layers.GlobalAveragePooling1D()
    classifier = keras.Sequential(
        [keras.Input((OPTIONS.positions, FEATURES)), *layers, mean, keras.layers.Dense(NUM_CLASSES)]
    )
    return classifier, TrainModel(classifier), keras.optimizers.Adam(**optimizer_arguments)


def train_mlpug(way: str, num_batches: int, num_epochs: int, callback_for: Callable[[Any], Any]) -> None:
    """Nothing but training, and a callback that measures, which gets the classifier."""
    samples, group_size, parts = WAYS[way]
    classifier, train_model, optimizer = pytorch_training() if ON_PYTORCH else keras_training()
    host_arguments = {"accelerator": "cpu", "devices": 1} if ON_PYTORCH else {}
    trainer = mlp.trainers.DefaultTrainer(optimizers=optimizer, model_components=classifier, **parts, **host_arguments)
    trainer.set_training_model(train_model)
    dataset = made_batches(samples, num_batches * group_size)
    callbacks = [callback_for(classifier)]
    mlp.trainers.TrainingManager(trainer, dataset, num_epochs=num_epochs, callbacks=callbacks).start_training()


def wait_for(classifier: Any) -> None:
    """Until its weights are there: JAX alone doesn't wait for what it computes on a CPU."""
    if OPTIONS.backend == "jax":
        importlib.import_module("jax").block_until_ready([variable.value for variable in classifier.variables])


def resident(what: str) -> float:
    """MB, of the process's VmRSS (now) or VmHWM (its peak)."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (kibibytes,) = (line.split()[1] for line in lines if line.startswith(f"{what}:"))
    return int(kibibytes) * 1024 / 1e6


class PeakMemory(mlp.callbacks.Callback):
    """Of all batches but the first, above what was there before that."""

    def __init__(self, classifier: Any) -> None:
        self._classifier = classifier
        self._before = 0.0

    def on_batch_training_start(self, batch: Any, logs: Any) -> None:
        self._before = self._before or resident("VmRSS")

    def on_batch_training_completed(self, batch: Any, logs: Any) -> None:
        if logs["current"]["global_iter"] == 0:
            wait_for(self._classifier)
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM starts again from VmRSS

    def on_epoch_completed(self, logs: Any) -> None:
        wait_for(self._classifier)
        self.megabytes = resident("VmHWM") - self._before


def peak_of(way: str) -> float:
    """MB, in this process."""
    peaks: list[PeakMemory] = []

    def callback_for(classifier: Any) -> PeakMemory:
        peaks.append(PeakMemory(classifier))
        return peaks[0]

    with silence():
        train_mlpug(way, BATCHES, 1, callback_for)
    return peaks[0].megabytes


def peak_in_a_fresh_process(way: str) -> float:
    """MB."""
    command = [sys.executable, *sys.argv, "--peak-of", way]
    printed = subprocess.run(command, env=os.environ | MALLOC, check=True, stdout=subprocess.PIPE, text=True).stdout
    return float(printed.split()[-1])


class Clock:
    """Times all epochs but the first, from their start until their last update is there."""

    def __init__(self) -> None:
        self._started = 0.0
        self._seconds: list[float] = []

    def start(self) -> None:
        self._started = now()

    def stop(self, classifier: Any) -> None:
        wait_for(classifier)
        self._seconds.append(now() - self._started)

    def microseconds_an_update(self) -> float:
        """Mean."""
        return sum(self._seconds[1:]) / (TIMED_EPOCHS * OPTIONS.updates) * 1e6


class MlpugClock(mlp.callbacks.Callback):
    """Reads the clock for mlpug."""

    def __init__(self, clock: Clock, classifier: Any) -> None:
        self._clock = clock
        self._classifier = classifier

    def on_epoch_start(self, logs: Any) -> None:
        self._clock.start()

    def on_epoch_completed(self, logs: Any) -> None:
        self._clock.stop(self._classifier)


def time_mlpug(way: str) -> float:
    """µs an update."""
    clock = Clock()
    train_mlpug(way, OPTIONS.updates, 1 + TIMED_EPOCHS, partial(MlpugClock, clock))
    return clock.microseconds_an_update()


def time_lightning() -> float:
    """µs an update, by automatic optimization."""
    import pytorch_lightning as pl
    import torch

    clock = Clock()
    _, train_model, optimizer = pytorch_training()

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.train_model = train_model

        def configure_optimizers(self) -> Any:
            return optimizer

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return self.train_model(batch)

        def on_train_epoch_start(self) -> None:
            clock.start()

        def on_train_epoch_end(self) -> None:
            clock.stop(train_model.classifier)

    trainer = pl.Trainer(
        barebones=True, accumulate_grad_batches=PARTS, max_epochs=1 + TIMED_EPOCHS, accelerator="cpu", devices=1
    )
    batches = made_batches(SMALL, PARTS * OPTIONS.updates)
    trainer.fit(Module(), torch.utils.data.DataLoader(batches, batch_size=None))  # of a list, each would be a dataset
    return clock.microseconds_an_update()


def time_fit() -> float:
    """µs an update, by Keras's own step and the optimizer's accumulation. It keeps the mean loss of the epoch."""
    import keras

    clock = Clock()
    classifier, train_model, optimizer = keras_training(gradient_accumulation_steps=PARTS)
    batches = made_batches(SMALL, PARTS * OPTIONS.updates)

    class ReadyBatches(keras.utils.PyDataset):
        def __len__(self) -> int:
            return len(batches)

        def __getitem__(self, index: int) -> Any:
            return batches[index]

    class KerasClock(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            clock.start()

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            clock.stop(classifier)

    classifier.compile(optimizer, train_model.loss_func)
    dataset = ReadyBatches() if isinstance(batches, list) else batches
    classifier.fit(dataset, epochs=1 + TIMED_EPOCHS, verbose=0, shuffle=False, callbacks=[KerasClock()])
    return clock.microseconds_an_update()


def set_threads() -> None:
    """One; of JAX by XLA_FLAGS."""
    if ON_PYTORCH:
        importlib.import_module("torch").set_num_threads(1)
    elif OPTIONS.backend == "tensorflow":
        threading = importlib.import_module("tensorflow").config.threading
        threading.set_inter_op_parallelism_threads(1)
        threading.set_intra_op_parallelism_threads(1)


def compare_memory() -> None:
    measured = interleaved({way: partial(peak_in_a_fresh_process, way) for way in WAYS}, OPTIONS.processes)
    print(f"\n{'peak memory of training':<44} {'median MB':>10} {'max MB':>10}")
    for way, peaks in measured.items():
        print(f"{way:<44} {median(peaks):>10.1f} {max(peaks):>10.1f}")
    print_ratio_header()
    for way, target in ((CHUNKED, "<= 1.15"), (ACCUMULATED, "<= 1.15"), (WHOLE_LARGE, "")):
        print_ratio(f"{way} / {WHOLE_SMALL}", measured[way], measured[WHOLE_SMALL], target)


def compare_time() -> None:
    contestants: dict[str, Callable[[], float]] = {
        NATIVE: time_lightning if ON_PYTORCH else time_fit,
        OURS_CHUNKED: partial(time_mlpug, CHUNKED),
        OURS_ACCUMULATED: partial(time_mlpug, ACCUMULATED),
    }
    interleaved(contestants, rounds=1)  # what is slow only once in a process
    measured = interleaved(contestants, OPTIONS.blocks)
    print_medians(f"an update by {PARTS} x {SMALL} samples", measured)
    print_ratio_header()
    for ours, kind in ((OURS_CHUNKED, "chunks"), (OURS_ACCUMULATED, "batches")):
        print_ratio(f"mlpug, {kind} / {HOST}", measured[ours], measured[NATIVE], "<= 1.05")


def main() -> None:
    set_threads()
    if OPTIONS.peak_of:
        print(peak_of(OPTIONS.peak_of))
        return
    classifier, *_ = pytorch_training() if ON_PYTORCH else keras_training()
    weights = sum(w.numel() for w in classifier.parameters()) if ON_PYTORCH else classifier.count_params()
    print(
        f"{OPTIONS.backend}: {weights * 4 / 1e6:.1f} MB of weights; {OPTIONS.processes} processes of each training, "
        f"{OPTIONS.blocks} blocks of each contestant"
    )
    compare_memory()
    compare_time()


if __name__ == "__main__":
    main()
