"""What mlpug's core costs, and that it doesn't grow with the epoch, the window or the dataset.

    python benchmarks/scaling.py

The loop is `FakeAdapter`'s and the model and its optimizer do nothing, so what is left is mlpug's own work.
"""

from __future__ import annotations

import argparse
import gc
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np
from measure import TimedBatches, interleaved, print_medians, print_ratio, print_ratio_header, silence

from mlpug.adapter import Run
from mlpug.callbacks import LogProgress, TestMetricsLogger, TrainingMetricsLogger
from mlpug.evaluation import Metric, MetricEvaluator
from mlpug.testing import FakeAdapter, fake_trainer
from mlpug.trainers import TrainingManager

LOG_PERIOD = 500
SHORT, LONG = 1_000, 100_000  # batches


class IdleModel:
    """A training model that knows its loss already."""

    gradients: dict[str, Any] = {}  # noqa: RUF012 - there are none

    def __call__(self, batch_data: Any, evaluate_settings: Any, inference_mode: bool = False) -> tuple[float, int]:
        return 0.5, 32


class IdleOptimizer:
    """An optimizer that moves nothing."""

    parameters: dict[str, Any] = {"weight": None}  # noqa: RUF012 - never written to
    learning_rate = 0.1

    def step(self, gradients: Any) -> None:
        """Do nothing."""


class GeneratedBatches:
    """Arrays made on the fly: as many batches as asked for, one of them in memory."""

    def __init__(self, num_batches: int) -> None:
        self._num_batches = num_batches

    def __len__(self) -> int:
        return self._num_batches

    def __iter__(self) -> Iterator[np.ndarray]:
        for index in range(self._num_batches):
            yield np.full(32, index % 7, dtype=np.float64)


class MeanSquare:
    """A small streaming metric in numpy."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._total, self._count = 0.0, 0

    def update(self, values: np.ndarray) -> None:
        """Take the values of a batch."""
        self._total += float(np.square(values).sum())
        self._count += len(values)

    def compute(self) -> float:
        """The mean over everything taken."""
        return self._total / self._count


def train(dataset: Iterable[Any], num_epochs: int, window: int) -> None:
    """Hello World's callbacks around nothing."""
    model = IdleModel()
    trainer = fake_trainer(IdleOptimizer(), model)
    evaluator = MetricEvaluator(trainer=trainer)
    callbacks = [
        TrainingMetricsLogger(metric_evaluator=evaluator, sliding_window_length=window),
        TestMetricsLogger([np.ones(32)], "validation", metric_evaluator=evaluator, batch_level=False),
        LogProgress(log_period=LOG_PERIOD, set_names=["training", "validation"]),
    ]
    manager = TrainingManager(trainer, dataset, num_epochs=num_epochs, callbacks=callbacks)
    trainer.set_training_model(model)
    manager.start_training()


def core_block(batches_an_epoch: int) -> float:
    """µs a batch over 100,000 batches, in epochs of this length, with a window of half an epoch.

    Both lengths pay for the same: full windows, since the first epoch isn't timed; one report in 500 batches; and no
    epoch's end, since the clock runs inside of epochs.
    """
    dataset = TimedBatches([np.ones(32)], batches_an_epoch)
    train(dataset, num_epochs=1 + LONG // batches_an_epoch, window=batches_an_epoch // 2)
    return dataset.microseconds_a_batch(first_epoch=1)


def loop_block() -> float:
    """µs a batch of the loop and the clock around the core: `FakeAdapter` with nobody listening."""
    dataset = TimedBatches([np.ones(32)], LONG)
    adapter = FakeAdapter({"optimizer": IdleOptimizer()})
    adapter.set_training_model(IdleModel())
    adapter.fit(Run(dataset, 1, len(dataset), listeners=(), evaluate_settings=lambda: None))
    return dataset.microseconds_a_batch()


def evaluate(num_batches: int, metrics: dict[str, Metric]) -> None:
    """Stream a dataset through the metrics."""
    evaluator = MetricEvaluator(model_evaluate_func=lambda batch, **_: (float(batch[0]), 32, batch), metrics=metrics)
    evaluator.evaluate_dataset(GeneratedBatches(num_batches))


def peak_kib(work: Callable[[], None]) -> float:
    """The most that the work held at once, in KiB, above what was there before."""
    gc.collect()
    tracemalloc.start()
    try:
        with silence():
            work()
        return tracemalloc.get_traced_memory()[1] / 1024
    finally:
        tracemalloc.stop()


def print_peaks(name: str, work: Callable[[int], None]) -> None:
    """The peak of few batches beside that of many."""
    with silence():
        work(SHORT)  # what is made only once in a process
    short, long = peak_kib(partial(work, SHORT)), peak_kib(partial(work, LONG))
    print(f"{name:<44} {short:>10.1f} {long:>10.1f} {long - short:>+10.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=6, help="blocks of each contestant; each times 100,000 batches")
    options = parser.parse_args()

    short, long = f"epochs of {SHORT:,}, window {SHORT // 2:,}", f"epochs of {LONG:,}, window {LONG // 2:,}"
    contestants = {short: partial(core_block, SHORT), long: partial(core_block, LONG), "FakeAdapter's loop": loop_block}
    measured = interleaved(contestants, options.blocks)
    print_medians("the core in FakeAdapter's loop, a batch", measured)
    print("target: at most 20 µs on a quiet machine")
    print_ratio_header()
    print_ratio(f"epochs of {LONG:,} / epochs of {SHORT:,}", measured[long], measured[short], "0.9 .. 1.1")

    streaming = {"mean_square": Metric(inputs=lambda batch, output: output.auxiliary_results, compute=MeanSquare())}
    print(f"\n{'peak memory in KiB, by number of batches':<44} {SHORT:>10,} {LONG:>10,} {'growth':>10}")
    print_peaks("evaluate a dataset, loss", partial(evaluate, metrics={}))
    print_peaks("evaluate a dataset, loss and streaming metric", partial(evaluate, metrics=streaming))
    print_peaks("train an epoch, window 500", lambda count: train(GeneratedBatches(count), num_epochs=1, window=500))


if __name__ == "__main__":
    main()
