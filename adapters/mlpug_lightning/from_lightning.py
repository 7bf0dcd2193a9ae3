"""Makes the adapter of a LightningModule."""

from __future__ import annotations

import inspect
from typing import Any

from mlpug.errors import ConfigurationError
from mlpug_lightning.host import check_is_ours, pl
from mlpug_lightning.ported import PortedAdapter
from mlpug_lightning.ported_lists import as_loader


def ported_adapter(
    module: Any, trainer: pl.Trainer, val_dataloaders: Any, makes_batches_of_parts: bool
) -> PortedAdapter:
    """The adapter for a LightningModule.

    Raises:
        ConfigurationError: it is none, or can't be trained so.
    """
    check_is_ours(module)
    if not isinstance(module, pl.LightningModule):
        raise ConfigurationError(
            f"from_lightning takes a {pl.__name__}.LightningModule, not {module!r}. A torch.nn.Module that computes a "
            "loss is trained by DefaultTrainer(optimizers=...) and set_training_model."
        )
    if "dataloader_iter" in inspect.signature(module.training_step).parameters:
        raise ConfigurationError(
            f"{type(module).__name__}.training_step takes dataloader_iter, and would ask for batches itself, of which "
            "nobody else would hear. Let it take (batch, batch_idx)."
        )
    if makes_batches_of_parts and trainer.accumulate_grad_batches != 1:
        raise ConfigurationError(
            "Lightning's accumulate_grad_batches must be 1 with batch_chunk_size or gradient_accumulation_steps: pass "
            "gradient_accumulation_steps=... alone, which counts the batches that are made of several as one, and "
            "weighs each by its samples."
        )
    if makes_batches_of_parts and not module.automatic_optimization:
        raise ConfigurationError(
            f"{type(module).__name__} optimizes manually, and its batches can't be computed in parts: what it does "
            "with each is in its training_step. Leave out batch_chunk_size and gradient_accumulation_steps, or let it "
            "optimize automatically."
        )
    return PortedAdapter(trainer, module, as_loader("validation dataset", val_dataloaders), makes_batches_of_parts)
