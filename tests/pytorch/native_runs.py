"""A LightningModule trained by Lightning alone, and by mlpug, from the same seed."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch

import mlpug.pytorch as mlp

QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "accelerator": "cpu",
}


@dataclass(frozen=True, slots=True)
class Trained:
    """What is there when training has ended."""

    module: Any
    lightning: pl.Trainer
    random: torch.Tensor  # the state of torch's random numbers
    manager: Any = None  # mlpug's

    @property
    def outcome(self) -> dict[str, Any]:
        """All that has to be equal, in plain types."""
        return {
            "seen": list(self.module.seen),
            "weights": {name: tensor.tolist() for name, tensor in self.module.state_dict().items()},
            "optimizers": [plain(optimizer.state_dict()) for optimizer in self.lightning.optimizers],
            "schedules": [rates_of(config.scheduler) for config in self.lightning.lr_scheduler_configs],
            "steps": self.lightning.global_step,
            "epochs": self.lightning.current_epoch,
            "shown": {name: value.item() for name, value in self.lightning.callback_metrics.items()},
            "random": self.random.tolist(),
        }


def rates_of(scheduler: Any) -> Any:
    return scheduler.last_epoch, [group["lr"] for group in scheduler.optimizer.param_groups]


def plain(tree: Any) -> Any:
    """Tensors as lists."""
    if isinstance(tree, torch.Tensor):
        return tree.tolist()
    if isinstance(tree, dict):
        return {name: plain(value) for name, value in tree.items()}
    return [plain(value) for value in tree] if isinstance(tree, (list, tuple)) else tree


def begin(seed: int) -> None:
    """Whatever is drawn comes from the seed."""
    torch.set_num_threads(1)  # threads that wait for each other take ten times as long for so little
    pl.seed_everything(seed, verbose=False)


def native(
    make: Callable[[], Any],
    data: Callable[[], Any],
    num_epochs: int = 3,
    callbacks: Sequence[Any] = (),
    val_dataloaders: Callable[[], Any] = lambda: None,
    seed: int = 1,
    **arguments: Any,
) -> Trained:
    """By ``Trainer.fit``; what is made of data is made after the module, as below."""
    begin(seed)
    module = make()
    trainer = pl.Trainer(max_epochs=num_epochs, callbacks=list(callbacks), **{**QUIET, **arguments})
    given = data()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's advice
        if isinstance(given, pl.LightningDataModule):
            trainer.fit(module, datamodule=given)
        elif given is None:
            trainer.fit(module)
        else:
            trainer.fit(module, given, val_dataloaders())
    return Trained(module, trainer, torch.get_rng_state())


def ported(
    make: Callable[[], Any],
    data: Callable[[], Any],
    num_epochs: int = 3,
    callbacks: Sequence[Any] = (),
    val_dataloaders: Callable[[], Any] = lambda: None,
    seed: int = 1,
    resume_from: Any = None,
    of_manager: dict[str, Any] | None = None,
    **arguments: Any,
) -> Trained:
    """By mlpug."""
    begin(seed)
    module = make()
    given = data()
    trainer = mlp.trainers.DefaultTrainer.from_lightning(
        module, accelerator="cpu", val_dataloaders=val_dataloaders(), **arguments
    )
    manager = mlp.trainers.TrainingManager(
        trainer,
        module if given is None else given,
        num_epochs=num_epochs,
        callbacks=list(callbacks),
        **(of_manager or {}),
    )
    manager.start_training(resume_from=resume_from)
    return Trained(module, trainer.native.trainer, torch.get_rng_state(), manager)


def differences(first: Trained, second: Trained) -> list[str]:
    """The names of what isn't equal."""
    one, other = first.outcome, second.outcome
    return [name for name in one if not same(one[name], other[name])]


def same(one: Any, other: Any) -> bool:
    """With NaN equal to itself."""
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other or (isinstance(one, float) and np.isnan(one) and np.isnan(other)))
