"""mlpug on PyTorch, trained by PyTorch Lightning: ``import mlpug.pytorch as mlp``."""

from mlpug_lightning import callbacks, trainers
from mlpug_lightning.components import load_model_checkpoint

from mlpug import errors, evaluation, logging, scheduler_funcs

__all__ = ["callbacks", "errors", "evaluation", "load_model_checkpoint", "logging", "scheduler_funcs", "trainers"]
