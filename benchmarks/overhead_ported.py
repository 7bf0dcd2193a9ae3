"""What a batch costs when a native project is trained by mlpug as it is, beside the host's own run of it.

    taskset -c 1 python benchmarks/overhead_ported.py lightning

The model is so small that the time is the loop's and not the model's: 784-128-10, batches of 32, one thread.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from measure import (
    BatchesOfSeat,
    Seat,
    TimedBatches,
    in_turns,
    interleaved,
    print_added,
    print_medians,
    print_ratio,
    print_ratio_header,
)

EPOCHS = 2  # what is between the first and the second is the end of an epoch
NATIVE, PORTED = "the host's own run", "the same by mlpug"
ATTACHED = "as_native of a callback that does nothing"
LISTENED_TO = "a native callback that does nothing"

Batches = TimedBatches | BatchesOfSeat
Train = Callable[[Batches], None]


def of_lightning() -> tuple[dict[str, Train], list[Any]]:
    """A LightningModule that logs its loss, by `Trainer.fit` and by `from_lightning`."""
    import pytorch_lightning as pl
    import torch

    import mlpug.pytorch as mlp

    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(1)
    batches = [
        (torch.rand(32, 784, generator=generator), torch.randint(10, (32,), generator=generator)) for _ in range(50)
    ]
    off = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_checkpointing": False}
    off |= {"enable_progress_bar": False, "enable_model_summary": False}

    class Classifier(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.net = torch.nn.Sequential(torch.nn.Linear(784, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            loss = torch.nn.functional.cross_entropy(self.net(batch[0]), batch[1])
            self.log("train_loss", loss, on_step=True, on_epoch=True)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters())

    class Nothing(mlp.callbacks.Callback):
        def on_batch_training_completed(self, batch: Any, logs: Any) -> None:
            """Listens to each batch."""

    class NativeNothing(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            """The same."""

    def native(dataset: Batches, callbacks: Sequence[pl.Callback] = ()) -> None:
        pl.Trainer(max_epochs=EPOCHS, callbacks=list(callbacks), **off).fit(Classifier(), dataset)

    def ported(dataset: Batches) -> None:
        trainer = mlp.trainers.DefaultTrainer.from_lightning(Classifier(), **off)
        mlp.trainers.TrainingManager(trainer, dataset, num_epochs=EPOCHS).start_training()

    def attached(dataset: Batches) -> None:
        native(dataset, [mlp.callbacks.as_native(Nothing())])

    def listened_to(dataset: Batches) -> None:
        native(dataset, [NativeNothing()])

    return {NATIVE: native, PORTED: ported, ATTACHED: attached, LISTENED_TO: listened_to}, batches


HOSTS = {"lightning": of_lightning}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("host", choices=HOSTS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batches", type=int, default=500, help="timed in each epoch")
    options = parser.parse_args()
    contestants, batches = HOSTS[options.host]()

    def measured(train: Train) -> float:
        dataset = TimedBatches(batches, options.batches)
        train(dataset)
        return dataset.microseconds_a_batch()

    def seated(train: Train, seat: Seat) -> None:
        train(BatchesOfSeat(batches, options.batches, seat))

    times = interleaved(
        {name: partial(measured, train) for name, train in contestants.items() if name in (NATIVE, PORTED)},
        options.rounds,
    )
    print_medians(f"{options.host}, a batch", times)
    print_ratio_header()
    print_ratio(f"{PORTED} / {NATIVE}", times[PORTED], times[NATIVE], "<= 1.03")
    turns = in_turns({name: partial(seated, train) for name, train in contestants.items() if name != PORTED})
    print_added(turns, NATIVE, {ATTACHED: "<= 20", LISTENED_TO: ""})


if __name__ == "__main__":
    main()
