"""What a batch costs in mlpug, in Keras's fit and in a bare loop, side by side in one process.

    python benchmarks/overhead_keras.py tensorflow
    python benchmarks/overhead_keras.py tensorflow --data numpy
    python benchmarks/overhead_keras.py jax

The model is so small that the time is the loop's and not the model's: 784-128-10, batches of 32, one thread.
"""

from __future__ import annotations

import argparse
import importlib
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from measure import (
    Seat,
    in_turns,
    interleaved,
    print_added,
    print_medians,
    print_ratio,
    print_ratio_header,
)

LOG_PERIOD = 500  # Hello World's; the number of batches is a multiple of it
TIMED_EPOCHS = 3  # after one in which everything is compiled
VALIDATION_BATCHES = 50


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backend", choices=["tensorflow", "jax"])
    parser.add_argument("--blocks", type=int, default=10, help="blocks of each contestant; 5 go through every rotation")
    parser.add_argument("--batches", type=int, default=500, help="batches in an epoch, a multiple of 500")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="time of this process instead of the wall's: on one core the same, but for what other programs take of it",
    )
    parser.add_argument("--data", choices=["tf.data", "numpy"], help="tf.data for TensorFlow, numpy for JAX")
    options = parser.parse_args()
    if options.batches < LOG_PERIOD or options.batches % LOG_PERIOD:
        parser.error(f"--batches must be a multiple of {LOG_PERIOD}, not {options.batches}")
    options.data = options.data or {"tensorflow": "tf.data", "jax": "numpy"}[options.backend]
    if (options.backend, options.data) == ("jax", "tf.data"):
        parser.error("--data tf.data is for TensorFlow")
    return options


OPTIONS = arguments()
os.environ["KERAS_BACKEND"] = OPTIONS.backend  # Keras settles it for the process when it is imported
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
mlp = importlib.import_module(f"mlpug.{OPTIONS.backend}")

import keras  # noqa: E402

RAW = "raw loop, compiled step"
BARE = "fit, everything off"
FEATURED = "fit, Hello World's features"
MLPUG = "mlpug, Hello World"
PORTED = "mlpug, from_keras, everything off"
ATTACHED = "fit, as_native of a callback that does nothing"
LISTENED_TO = "fit, a native callback that does nothing"


class Clock:
    """When epochs start, when their batches are done, and when they end, validation and all.

    The clock can't sit in the dataset: a `tf.data.Dataset` is not Python's, and Keras fetches batches ahead.
    """

    def __init__(self, num_batches: int) -> None:
        self._num_batches = num_batches
        self._marks: dict[str, list[float]] = {"started": [], "batches_done": [], "ended": []}

    def mark(self, what: str) -> None:
        """It is now that this epoch started, that its batches were done, or that it ended."""
        self._marks[what].append(time.process_time() if OPTIONS.cpu_time else time.perf_counter())

    def microseconds_a_batch(self, until: str) -> float:
        """Mean over the timed epochs; the first is not one."""
        pairs = zip(self._marks["started"][1:], self._marks[until][1:], strict=True)
        return sum(end - start for start, end in pairs) / (TIMED_EPOCHS * self._num_batches) * 1e6


class KerasClock(keras.callbacks.Callback):
    """Reads the clock for fit. It has no hooks for batches, so that fit goes on as if nobody listened to those."""

    def __init__(self, clock: Clock, validates: bool) -> None:
        super().__init__()
        self._clock = clock
        self._validates = validates

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._clock.mark("started")

    def on_test_begin(self, logs: Any = None) -> None:
        self._clock.mark("batches_done")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if not self._validates:
            self._clock.mark("batches_done")  # the logs hold the loss as a number: nothing is still on its way
        self._clock.mark("ended")


class TakesTurns(keras.callbacks.Callback):
    """The last callback of a fit that takes turns with others: it puts the end of a turn before each step."""

    def __init__(self, seat: Seat) -> None:
        super().__init__()
        self._seat = seat

    def on_train_begin(self, logs: Any = None) -> None:
        trained = self._model  # `self.model` would have Keras write all values into the variables on JAX
        step = trained.train_function

        def step_in_turn(*arguments: Any) -> Any:
            self._seat.begin_batch()
            return step(*arguments)

        trained.train_function = step_in_turn


class MlpugClock(mlp.callbacks.Callback):
    """Reads the clock for mlpug: one stands before Hello World's callbacks, and one behind."""

    def __init__(self, clock: Clock, at_start: str | None, at_end: str) -> None:
        self._clock = clock
        self._at_start = at_start
        self._at_end = at_end

    def on_epoch_start(self, logs: Any) -> None:
        if self._at_start is not None:
            self._clock.mark(self._at_start)

    def on_epoch_completed(self, logs: Any) -> None:
        self._clock.mark(self._at_end)


class ReadyBatches(keras.utils.PyDataset):
    """A list of batches in the form that fit takes."""

    def __init__(self, batches: list[Any]) -> None:
        super().__init__()
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Any:
        return self._batches[index]


class TrainModel(keras.Model):
    """Hello World's training model."""

    def __init__(self, classifier: keras.Model) -> None:
        super().__init__()
        self.classifier = classifier
        self.loss_func = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def call(self, batch_data: Any, evaluate_settings: Any = None, inference_mode: bool | None = None) -> Any:
        images, true_labels = batch_data
        return self.loss_func(true_labels, self.classifier(images))


class RunningLoss(keras.callbacks.Callback):
    """What a Keras user writes to see the loss while training.

    ``logs["loss"]`` is Keras's own mean over the epoch so far: fit has it anyway, and nothing cheaper. What the batch
    alone gave isn't there, so this is less than what mlpug gives, and the comparison favours Keras.
    """

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._total = 0.0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._total += logs["loss"]
        if (batch + 1) % LOG_PERIOD == 0:
            print(f"batch {batch}: loss {logs['loss']:.4f}, running mean {self._total / (batch + 1):.4f}")


def new_training() -> tuple[keras.Model, keras.losses.Loss, keras.optimizers.Optimizer]:
    """The same for every contestant and every block."""
    keras.utils.set_random_seed(0)
    classifier = keras.Sequential(
        [
            keras.Input((28, 28)),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(10),
        ]
    )
    return classifier, keras.losses.SparseCategoricalCrossentropy(from_logits=True), keras.optimizers.Adam()


def made_batches(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Batches in memory, 64 different ones: reading data is not what is measured."""
    generator = np.random.default_rng(1)
    different = [
        (generator.random((32, 28, 28), dtype=np.float32), generator.integers(10, size=32))
        for _ in range(min(count, 64))
    ]
    return [different[index % len(different)] for index in range(count)]


def as_tf_data(batches: list[Any]) -> Any:
    """Batches that are made already: nothing is left to do but to hand them out.

    Without autotuning, whose threads on one core make every contestant wait, for longer than a batch takes.
    """
    import tensorflow as tf

    images, labels = (np.stack(arrays) for arrays in zip(*batches, strict=True))
    options = tf.data.Options()
    options.autotune.enabled = False
    return tf.data.Dataset.from_tensor_slices((images, labels)).with_options(options)


def train_raw(dataset: Any, validation: Any, num_epochs: int, clock: Clock) -> None:
    """The floor: one compiled function, called for each batch."""
    step = {"tensorflow": tensorflow_step, "jax": jax_step}[OPTIONS.backend]()
    for _ in range(num_epochs):
        clock.mark("started")
        for images, labels in dataset:
            loss = step(images, labels)
        float(loss)
        clock.mark("batches_done")
        clock.mark("ended")


def tensorflow_step() -> Callable[[Any, Any], Any]:
    """Tape, gradients and the optimizer of Keras in a `tf.function`, by XLA as fit's own on this model."""
    import tensorflow as tf

    classifier, loss_func, optimizer = new_training()
    variables = classifier.trainable_variables
    optimizer.build(variables)

    @tf.function(jit_compile=True)
    def step(images: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = loss_func(labels, classifier(images, training=True))
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    return step


def jax_step() -> Callable[[Any, Any], Any]:
    """Keras's stateless calls in a `jax.jit` that makes the new state in the place of the old."""
    import jax

    classifier, loss_func, optimizer = new_training()
    optimizer.build(classifier.trainable_variables)

    @partial(jax.jit, donate_argnums=(0, 1))
    def update(weights: list[Any], moments: list[Any], images: Any, labels: Any) -> tuple[Any, list[Any], list[Any]]:
        def loss_of(weights: list[Any]) -> Any:
            return loss_func(labels, classifier.stateless_call(weights, [], images, training=True)[0])

        loss, gradients = jax.value_and_grad(loss_of)(weights)
        return loss, *optimizer.stateless_apply(moments, gradients, weights)

    weights = [variable.value for variable in classifier.trainable_variables]
    moments = [variable.value for variable in optimizer.variables]

    def step(images: Any, labels: Any) -> Any:
        nonlocal weights, moments
        loss, weights, moments = update(weights, moments, images, labels)
        return loss

    return step


def train_bare(dataset: Any, validation: Any, num_epochs: int, clock: Clock) -> None:
    """Fit with nothing to do but train. It keeps the mean loss of the epoch, which can't be switched off."""
    train_beside(dataset, num_epochs, [KerasClock(clock, False)])


def train_beside(dataset: Any, num_epochs: int, callbacks: Sequence[Any]) -> None:
    """Fit, and no more than these callbacks."""
    classifier, loss_func, optimizer = new_training()
    classifier.compile(optimizer, loss_func)
    classifier.fit(for_fit(dataset), epochs=num_epochs, verbose=0, shuffle=False, callbacks=list(callbacks))


class Nothing(mlp.callbacks.Callback):
    """Listens to each batch."""

    def on_batch_training_completed(self, batch: Any, logs: Any) -> None:
        """Do nothing."""


class NativeNothing(keras.callbacks.Callback):
    """The same for fit."""

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Do nothing."""


def print_what_callbacks_add(dataset: Any) -> None:
    """What one callback adds to a batch of fit with everything off, batch by batch."""
    callbacks: dict[str, Callable[[], list[Any]]] = {
        BARE: list,
        ATTACHED: lambda: [mlp.callbacks.as_native(Nothing())],
        LISTENED_TO: lambda: [NativeNothing()],
    }
    turns = in_turns(
        {
            name: lambda seat, make=make: train_beside(dataset, 1 + TIMED_EPOCHS, [*make(), TakesTurns(seat)])
            for name, make in callbacks.items()
        }
    )
    print_added(turns, BARE, {ATTACHED: "<= 20", LISTENED_TO: ""})


def train_featured(dataset: Any, validation: Any, num_epochs: int, clock: Clock) -> None:
    """Fit with a look at the loss at each batch, and validation."""
    classifier, loss_func, optimizer = new_training()
    classifier.compile(optimizer, loss_func)
    classifier.fit(
        for_fit(dataset),
        validation_data=for_fit(validation),
        epochs=num_epochs,
        verbose=0,
        shuffle=False,
        callbacks=[RunningLoss(), KerasClock(clock, True)],
    )


def for_fit(dataset: Any) -> Any:
    """A `tf.data.Dataset` as it is; a list, which fit would take for a single batch, in a wrapper."""
    return ReadyBatches(dataset) if isinstance(dataset, list) else dataset


def train_mlpug(dataset: Any, validation: Any, num_epochs: int, clock: Clock) -> None:
    """Hello World."""
    classifier, _, optimizer = new_training()
    trainer = mlp.trainers.DefaultTrainer(optimizers=optimizer, model_components=classifier)
    evaluator = mlp.evaluation.MetricEvaluator(trainer=trainer)
    callbacks = [
        MlpugClock(clock, at_start="started", at_end="batches_done"),
        mlp.callbacks.TrainingMetricsLogger(metric_evaluator=evaluator),
        mlp.callbacks.TestMetricsLogger(validation, "validation", metric_evaluator=evaluator, batch_level=False),
        mlp.callbacks.LogProgress(log_period=LOG_PERIOD, set_names=["training", "validation"]),
        MlpugClock(clock, at_start=None, at_end="ended"),
    ]
    manager = mlp.trainers.TrainingManager(trainer, dataset, num_epochs=num_epochs, callbacks=callbacks)
    trainer.set_training_model(TrainModel(classifier))
    manager.start_training()


def train_ported(dataset: Any, validation: Any, num_epochs: int, clock: Clock) -> None:
    """The same compiled model as fit's with everything off, trained by from_keras."""
    classifier, loss_func, optimizer = new_training()
    classifier.compile(optimizer, loss_func)
    trainer = mlp.trainers.DefaultTrainer.from_keras(classifier, shuffle=False)
    manager = mlp.trainers.TrainingManager(
        trainer, for_fit(dataset), num_epochs=num_epochs, callbacks=[KerasClock(clock, False)]
    )
    manager.start_training()


def block(train: Callable[..., None], dataset: Any, validation: Any) -> tuple[float, float]:
    """(µs a batch, µs a batch with the end of the epoch and the validation in it)."""
    clock = Clock(OPTIONS.batches)
    train(dataset, validation, 1 + TIMED_EPOCHS, clock)
    keras.utils.clear_session()
    return clock.microseconds_a_batch("batches_done"), clock.microseconds_a_batch("ended")


def main() -> None:
    if OPTIONS.backend == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_inter_op_parallelism_threads(1)
        tf.config.threading.set_intra_op_parallelism_threads(1)
    # All are fed the same: a tf.data.Dataset, or a list of numpy arrays, which only fit gets as a PyDataset.
    dataset, validation = made_batches(OPTIONS.batches), made_batches(VALIDATION_BATCHES)
    if OPTIONS.data == "tf.data":
        dataset, validation = as_tf_data(dataset), as_tf_data(validation)

    training = {RAW: train_raw, BARE: train_bare, FEATURED: train_featured, MLPUG: train_mlpug, PORTED: train_ported}
    contestants = {name: partial(block, train, dataset, validation) for name, train in training.items()}
    interleaved(contestants, rounds=1)  # what is slow only once in a process
    measured = interleaved(contestants, OPTIONS.blocks)
    of_batches, with_end = (
        {name: [values[index] for values in blocks] for name, blocks in measured.items()} for index in range(2)
    )

    print(f"{OPTIONS.backend}, {OPTIONS.data}: {OPTIONS.blocks} blocks of each, {TIMED_EPOCHS} timed epochs in a block")
    print_medians("a batch", of_batches)
    print_medians("a batch's share of the whole epoch", {name: with_end[name] for name in (FEATURED, MLPUG)})
    print_ratio_header()
    print_ratio("mlpug / raw", of_batches[MLPUG], of_batches[RAW])
    print_ratio("mlpug / fit, everything off", of_batches[MLPUG], of_batches[BARE], "<= 1.0")
    print_ratio("mlpug / fit, features", of_batches[MLPUG], of_batches[FEATURED], "<= 0.85")
    print_ratio("the same, whole epochs with validation", with_end[MLPUG], with_end[FEATURED])
    print_ratio("from_keras / fit, everything off", of_batches[PORTED], of_batches[BARE], "<= 1.1")
    print_what_callbacks_add(dataset)


if __name__ == "__main__":
    main()
