"""What evaluating a dataset costs in mlpug and in Keras's evaluate, side by side in one process.

    python benchmarks/evaluate_keras.py tensorflow
    python benchmarks/evaluate_keras.py jax

The model is so small that the time is the loop's and not the model's: 784-128-10, batches of 32, one thread. Both
must find the same loss and accuracy.
"""

from __future__ import annotations

import argparse
import importlib
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from measure import interleaved, print_medians, print_ratio, print_ratio_header


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backend", choices=["tensorflow", "jax"])
    parser.add_argument("--blocks", type=int, default=25, help="evaluations by each contestant")
    parser.add_argument("--batches", type=int, default=500, help="batches in the dataset")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="time of this process instead of the wall's: on one core the same, but for what other programs take of it",
    )
    return parser.parse_args()


OPTIONS = arguments()
os.environ["KERAS_BACKEND"] = OPTIONS.backend  # Keras settles it for the process when it is imported
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
mlp = importlib.import_module(f"mlpug.{OPTIONS.backend}")

import keras  # noqa: E402

BATCH_SIZE = 32
SAME = 1e-6 * max(1, OPTIONS.batches / 500)  # relative; Keras adds up in single precision

KERAS_LOSS = "evaluate, loss"
KERAS_BOTH = "evaluate, loss and accuracy"
MLPUG_LOSS = "mlpug, loss"
MLPUG_FUNCTION = "mlpug, loss and a function"
MLPUG_MEAN = "mlpug, loss and a mean"
MLPUG_KERAS = "mlpug, loss and Keras's metric"

Evaluate = Callable[[], dict[str, float]]


class ReadyBatches(keras.utils.PyDataset):
    """A list of batches in the form that evaluate takes."""

    def __init__(self, batches: list[Any]) -> None:
        super().__init__()
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Any:
        return self._batches[index]


class LossOnly(keras.Model):
    """Hello World's training model."""

    def __init__(self, classifier: keras.Model) -> None:
        super().__init__()
        self.classifier = classifier
        self.loss_func = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def call(self, batch_data: Any, evaluate_settings: Any = None, inference_mode: bool | None = None) -> Any:
        images, true_labels = batch_data
        return self.loss_func(true_labels, self.classifier(images))


class LossAndLogits(LossOnly):
    """One that hands out the logits too, for metrics."""

    def call(self, batch_data: Any, evaluate_settings: Any = None, inference_mode: bool | None = None) -> Any:
        images, true_labels = batch_data
        logits = self.classifier(images)
        return self.loss_func(true_labels, logits), keras.ops.shape(images)[0], logits


class LossAndAccuracy(LossOnly):
    """One that computes the accuracy of the batch itself, in the compiled step."""

    def call(self, batch_data: Any, evaluate_settings: Any = None, inference_mode: bool | None = None) -> Any:
        images, true_labels = batch_data
        logits = self.classifier(images)
        accuracy = keras.ops.mean(keras.metrics.sparse_categorical_accuracy(true_labels, logits))
        return self.loss_func(true_labels, logits), keras.ops.shape(images)[0], accuracy


def of_function() -> Any:
    """The accuracy of the labels and logits of all batches, by numpy."""
    return mlp.evaluation.Metric(
        inputs=lambda batch, output: {"labels": batch[1], "logits": output.auxiliary_results},
        compute=lambda inputs: (inputs["logits"].argmax(axis=1) == inputs["labels"]).mean(),
    )


def of_mean() -> Any:
    """The mean of the accuracies of the batches."""
    return mlp.evaluation.Metric(
        inputs=lambda batch, output: (output.auxiliary_results, output.num_samples),
        compute=mlp.evaluation.WeightedMean(),
    )


def of_keras_metric() -> Any:
    """Keras's own metric, batch after batch."""
    return mlp.evaluation.Metric(
        inputs=lambda batch, output: (batch[1], output.auxiliary_results),
        compute=keras.metrics.SparseCategoricalAccuracy(),
    )


def new_classifier() -> keras.Model:
    """The same for every contestant."""
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((28, 28)),
            keras.layers.Flatten(),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(10),
        ]
    )


def made_dataset(num_batches: int) -> Any:
    """Batches that are made already, 64 different ones: reading data is not what is measured."""
    generator = np.random.default_rng(1)
    different = [
        (generator.random((BATCH_SIZE, 28, 28), dtype=np.float32), generator.integers(10, size=BATCH_SIZE))
        for _ in range(min(num_batches, 64))
    ]
    batches = [different[index % len(different)] for index in range(num_batches)]
    if OPTIONS.backend == "jax":
        return batches
    import tensorflow as tf

    images, labels = (np.stack(arrays) for arrays in zip(*batches, strict=True))
    options = tf.data.Options()
    options.autotune.enabled = False  # there is nothing to tune, and its threads can hold up both contestants
    return tf.data.Dataset.from_tensor_slices((images, labels)).with_options(options)


def by_keras(dataset: Any, metrics: list[Any]) -> Evaluate:
    """Keras's compiled evaluate."""
    classifier = new_classifier()
    classifier.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=metrics)
    for_keras = ReadyBatches(dataset) if isinstance(dataset, list) else dataset
    return partial(classifier.evaluate, for_keras, verbose=0, return_dict=True)


def by_mlpug(dataset: Any, training_model: type[keras.Model], metrics: dict[str, Any]) -> Evaluate:
    """What `TestMetricsLogger` does at the end of an epoch."""
    classifier = new_classifier()
    trainer = mlp.trainers.DefaultTrainer(keras.optimizers.Adam(), classifier)
    trainer.set_training_model(training_model(classifier))
    return partial(mlp.evaluation.MetricEvaluator(trainer=trainer, metrics=metrics).evaluate_dataset, dataset)


def microseconds_a_batch(evaluate: Evaluate) -> float:
    """From the call to its result."""
    clock = time.process_time if OPTIONS.cpu_time else time.perf_counter
    started = clock()
    evaluate()
    return (clock() - started) / OPTIONS.batches * 1e6


def check_same(results: dict[str, dict[str, float]]) -> None:
    """All contestants found the same, or the comparison means nothing."""
    expected = results[KERAS_BOTH]
    for name, result in results.items():
        for metric, value in result.items():
            np.testing.assert_allclose(value, expected[metric], rtol=SAME, err_msg=f"{metric} of {name}")


def main() -> None:
    if OPTIONS.backend == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_inter_op_parallelism_threads(1)
        tf.config.threading.set_intra_op_parallelism_threads(1)
    dataset = made_dataset(OPTIONS.batches)
    evaluations = {
        KERAS_LOSS: by_keras(dataset, []),
        KERAS_BOTH: by_keras(dataset, [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]),
        MLPUG_LOSS: by_mlpug(dataset, LossOnly, {}),
        MLPUG_FUNCTION: by_mlpug(dataset, LossAndLogits, {"accuracy": of_function()}),
        MLPUG_MEAN: by_mlpug(dataset, LossAndAccuracy, {"accuracy": of_mean()}),
        MLPUG_KERAS: by_mlpug(dataset, LossAndLogits, {"accuracy": of_keras_metric()}),
    }
    results = {name: evaluate() for name, evaluate in evaluations.items()}  # compiles them too
    check_same(results)
    contestants = {name: partial(microseconds_a_batch, evaluate) for name, evaluate in evaluations.items()}
    interleaved(contestants, rounds=1)  # what is slow only once in a process
    measured = interleaved(contestants, OPTIONS.blocks)

    print(f"{OPTIONS.backend}: {OPTIONS.blocks} evaluations of {OPTIONS.batches} batches by each")
    for name in (KERAS_BOTH, MLPUG_FUNCTION):
        print(f"{name:<44} {results[name]['loss']:.9f} {results[name]['accuracy']:.9f}")
    print_medians("a batch", measured)
    print_ratio_header()
    print_ratio("mlpug / evaluate, loss", measured[MLPUG_LOSS], measured[KERAS_LOSS], "<= 1.0")
    for name in (MLPUG_FUNCTION, MLPUG_MEAN, MLPUG_KERAS):
        print_ratio(f"{name} / evaluate", measured[name], measured[KERAS_BOTH], "<= 1.0")


if __name__ == "__main__":
    main()
