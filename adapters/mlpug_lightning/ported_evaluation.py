"""One batch evaluated by a LightningModule's own `validation_step`, at any time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from mlpug.adapter import StepOutput
from mlpug.errors import ConfigurationError
from mlpug.step_output import as_step_output
from mlpug_lightning.host import pl


def evaluated(trainer: Any, module: Any, datamodule: Any, batch: Any) -> StepOutput:
    """What `validation_step` returns for the batch; what it logs isn't.

    Args:
        trainer: Lightning's.
        module: the user's.
        datamodule: whose hooks are used, where the training data is one's; else None.
        batch: as a loader gives it.

    Raises:
        ConfigurationError: there is no `validation_step`.
        TrainingModelError: it returns no loss.
    """
    if type(module).validation_step is pl.LightningModule.validation_step:
        raise ConfigurationError(
            f"{type(module).__name__} has no validation_step to evaluate a batch by: write one that returns the "
            "loss, or give the MetricEvaluator a model_evaluate_func."
        )
    _attach(trainer, module, datamodule)
    precision = trainer.precision_plugin
    batch = module._on_before_batch_transfer(precision.convert_input(batch), dataloader_idx=0)
    batch = module._apply_batch_transfer_handler(batch, device=module.device, dataloader_idx=0)
    with _evaluating(module), torch.no_grad(), precision.val_step_context():
        returned = module.validation_step(batch, 0)
    return as_step_output(returned, batch)


def _attach(trainer: Any, module: Any, datamodule: Any) -> None:
    """As Lightning does when training starts, which may not have been yet."""
    module.trainer = trainer
    if trainer.lightning_module is None:
        trainer.strategy.connect(module)
    connector = trainer._data_connector
    if connector._datahook_selector is None:
        connector.attach_datamodule(module, datamodule)


@contextmanager
def _evaluating(module: Any) -> Iterator[None]:
    """In eval mode, where it isn't in that already, and without a log."""
    training_parts = [part for part in module.modules() if part.training]
    for part in training_parts:
        part.training = False
    module.log = lambda *_, **__: None
    try:
        yield
    finally:
        del module.log
        for part in training_parts:
            part.training = True
