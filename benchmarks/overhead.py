"""What a batch costs in mlpug, in Lightning and in a bare loop, side by side in one process.

    python benchmarks/overhead.py
    python benchmarks/overhead.py --mean window --refresh-rate 500

The model is so small that the time is the loop's and not the model's: 784-128-10, batches of 32, one thread.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from measure import TimedBatches, interleaved, print_medians, print_ratio, print_ratio_header
from torchmetrics.aggregation import MeanMetric, RunningMean

import mlpug.pytorch as mlp

LOG_PERIOD = 500  # Hello World's; the number of timed batches is a multiple of it
EPOCHS = 2  # what is between the first and the second is the end of an epoch
VALIDATION_BATCHES = 50

Train = Callable[[TimedBatches, TimedBatches], None]

RAW = "raw PyTorch loop"
BARE = "Lightning, everything off"
FEATURED = "Lightning, Hello World's features"
MLPUG = "mlpug, Hello World"


class TrainModel(torch.nn.Module):
    """Hello World's training model."""

    def __init__(self, classifier: torch.nn.Module) -> None:
        super().__init__()
        self.classifier = classifier
        self.loss_func = torch.nn.CrossEntropyLoss()

    def forward(self, batch_data: Any, evaluate_settings: Any = None, inference_mode: Any = None) -> torch.Tensor:
        images, true_labels = batch_data
        return self.loss_func(self.classifier(images), true_labels)


def new_training() -> tuple[torch.nn.Module, TrainModel, torch.optim.Optimizer]:
    """The same for every contestant and every block."""
    torch.manual_seed(0)
    classifier = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(784, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10)
    )
    return classifier, TrainModel(classifier), torch.optim.Adam(classifier.parameters(), eps=1e-7)


def made_batches(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Batches in memory: reading data is not what is measured."""
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.rand(32, 28, 28, generator=generator), torch.randint(10, (32,), generator=generator))
        for _ in range(count)
    ]


def train_raw(dataset: TimedBatches, validation_data: TimedBatches) -> None:
    """The floor: nothing but the four calls."""
    _, train_model, optimizer = new_training()
    for _ in range(EPOCHS):
        for batch in dataset:
            optimizer.zero_grad()
            loss = train_model(batch)
            loss.backward()
            optimizer.step()


class BareModule(pl.LightningModule):
    """Automatic optimization, and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        _, self.train_model, self.optimizer = new_training()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.train_model(batch)


class FeaturedModule(pl.LightningModule):
    """What Hello World logs, as Lightning's users log it.

    Lightning has no sliding window of its own. The default here is its cheapest and most common running mean, the mean
    over the epoch that ``self.log(on_epoch=True)`` keeps; it is less than what mlpug gives, so the comparison favours
    Lightning. ``metric`` keeps that mean in a `MeanMetric` and shows its value at each batch. ``window`` is mlpug's
    own feature, a `RunningMean` over half an epoch: torchmetrics goes through the whole window at each batch.
    """

    def __init__(self, mean: str, window: int) -> None:
        super().__init__()
        _, self.train_model, self.optimizer = new_training()
        self.mean = {"epoch": None, "metric": MeanMetric(), "window": RunningMean(window)}[mean]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = self.train_model(batch)
        self.log("loss", loss, on_step=True, on_epoch=self.mean is None, prog_bar=True)
        if self.mean is not None:
            self.mean.update(loss.detach())
            self.log("mean_loss", self.mean.compute(), on_step=True, prog_bar=True)
        return loss

    def on_train_epoch_start(self) -> None:
        if isinstance(self.mean, MeanMetric):
            self.mean.reset()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.train_model(batch), prog_bar=True)


def train_bare(dataset: TimedBatches, validation_data: TimedBatches) -> None:
    """Lightning with nothing to do but train."""
    trainer = pl.Trainer(barebones=True, max_epochs=EPOCHS, accelerator="cpu", devices=1)
    trainer.fit(BareModule(), dataset)


def train_featured(dataset: TimedBatches, validation_data: TimedBatches, mean: str, refresh_rate: int) -> None:
    """Lightning with progress, metrics and validation; no files are written, as mlpug's Hello World writes none."""
    trainer = pl.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[pl.callbacks.TQDMProgressBar(refresh_rate=refresh_rate)],
    )
    trainer.fit(FeaturedModule(mean, window=len(dataset) // 2), dataset, validation_data)


def train_mlpug(dataset: TimedBatches, validation_data: TimedBatches) -> None:
    """Hello World."""
    classifier, train_model, optimizer = new_training()
    trainer = mlp.trainers.DefaultTrainer(optimizers=optimizer, model_components=classifier, accelerator="cpu")
    evaluator = mlp.evaluation.MetricEvaluator(trainer=trainer)
    callbacks = [
        mlp.callbacks.TrainingMetricsLogger(metric_evaluator=evaluator),
        mlp.callbacks.TestMetricsLogger(validation_data, "validation", metric_evaluator=evaluator, batch_level=False),
        mlp.callbacks.LogProgress(log_period=LOG_PERIOD, set_names=["training", "validation"]),
    ]
    manager = mlp.trainers.TrainingManager(trainer, dataset, num_epochs=EPOCHS, callbacks=callbacks)
    trainer.set_training_model(train_model)
    manager.start_training()


def block(train: Train, batches: list[Any], num_batches: int) -> tuple[float, float, float]:
    """(µs a batch, µs a batch with the end of the epoch in it, µs a batch of validation or 0)."""
    training, validation = TimedBatches(batches, num_batches), TimedBatches(batches, VALIDATION_BATCHES)
    train(training, validation)
    return (
        training.microseconds_a_batch(),
        training.microseconds_a_batch_with_epoch_end(),
        validation.microseconds_a_batch() if validation.started else 0.0,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=12, help="blocks of each contestant; 4 go through every rotation")
    parser.add_argument("--batches", type=int, default=500, help="timed batches in an epoch, a multiple of 500")
    parser.add_argument("--mean", choices=["epoch", "metric", "window"], default="epoch", help="Lightning's mean loss")
    parser.add_argument("--refresh-rate", type=int, default=1, help="of Lightning's progress bar; 1 is its default")
    options = parser.parse_args()
    if options.batches < LOG_PERIOD or options.batches % LOG_PERIOD:
        parser.error(f"--batches must be a multiple of {LOG_PERIOD}, not {options.batches}")

    torch.set_num_threads(1)
    batches = made_batches(64)
    training: dict[str, Train] = {
        RAW: train_raw,
        BARE: train_bare,
        FEATURED: partial(train_featured, mean=options.mean, refresh_rate=options.refresh_rate),
        MLPUG: train_mlpug,
    }
    contestants = {name: partial(block, train, batches, options.batches) for name, train in training.items()}
    interleaved(contestants, rounds=1)  # what is slow only once in a process
    measured = interleaved(contestants, options.blocks)
    of_batches, with_end, of_validation = (
        {name: [values[index] for values in blocks] for name, blocks in measured.items()} for index in range(3)
    )

    print(f"{options.blocks} blocks of each, {EPOCHS} epochs of {options.batches} timed batches in a block")
    print_medians("a batch, in the middle of training", of_batches)
    both = (FEATURED, MLPUG)
    print_medians("a batch's share of the whole epoch", {name: with_end[name] for name in both})
    print_medians("a batch of validation", {name: of_validation[name] for name in both})
    print_ratio_header()
    print_ratio("mlpug / raw", of_batches[MLPUG], of_batches[RAW])
    print_ratio("mlpug / Lightning, everything off", of_batches[MLPUG], of_batches[BARE], "<= 1.0")
    print_ratio("mlpug / Lightning, features", of_batches[MLPUG], of_batches[FEATURED], "<= 0.6")
    print_ratio("the same, whole epochs with validation", with_end[MLPUG], with_end[FEATURED])
    print_ratio("the same, a batch of validation", of_validation[MLPUG], of_validation[FEATURED])


if __name__ == "__main__":
    main()
