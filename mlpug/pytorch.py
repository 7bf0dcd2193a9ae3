"""mlpug on PyTorch, trained by PyTorch Lightning: ``import mlpug.pytorch as mlp``."""

from mlpug_lightning import trainers

from mlpug import callbacks, errors, evaluation, logging

__all__ = ["callbacks", "errors", "evaluation", "logging", "trainers"]
