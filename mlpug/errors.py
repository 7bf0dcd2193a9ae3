"""Every error that mlpug raises itself, as one small tree.

    MlpugError
    ├── ConfigurationError     an argument or a combination that can't work; a ValueError too
    ├── DatasetError           the data isn't what training needs; a ValueError too
    ├── TrainingModelError     the training model returned something else than a loss; a TypeError too
    ├── NonFiniteLoss          the loss or a gradient is NaN or infinite; an ArithmeticError too
    ├── MissingDependencyError a package that the chosen backend needs isn't installed; an ImportError too
    └── CheckpointError        a checkpoint can't be written, read or used
        ├── CheckpointNotFoundError  there is no such file; a FileNotFoundError too
        ├── CheckpointDamagedError   the file isn't what was written, or isn't a checkpoint of mlpug; a ValueError too
        ├── CheckpointWriteError     the new checkpoint isn't there, the older one still is; an OSError too
        ├── CheckpointInUseError     another run is writing the same files
        ├── CheckpointMismatchError  a whole checkpoint that doesn't fit what it is restored into; a ValueError too
        └── StateError               the state holds something that a checkpoint can't; a TypeError too

Exceptions from the user's own model, data and callbacks are never translated: they arrive as they were raised. Only
what the host says of types of numbers in the first batch is the cause of a DatasetError. Those of mlpug's own come out
of `start_training` with the lines of the script, and the one that raised them, as their traceback.
"""

from __future__ import annotations

import math


class MlpugError(Exception):
    """Base of all of mlpug's own errors.

    >>> from mlpug.errors import ConfigurationError, MlpugError
    >>> issubclass(ConfigurationError, MlpugError)
    True
    """


class ConfigurationError(MlpugError, ValueError):
    """An argument, or a combination of arguments, that can't work.

    >>> from mlpug.callbacks import LogProgress
    >>> LogProgress(log_period=-1)
    Traceback (most recent call last):
    mlpug.errors.ConfigurationError: log_period must be a whole number of at least 1, not -1. ...
    """


class DatasetError(MlpugError, ValueError):
    """The data can't be trained on or evaluated: it is empty, or can't be read again.

    >>> from mlpug.errors import DatasetError
    >>> issubclass(DatasetError, ValueError)
    True
    """


class TrainingModelError(MlpugError, TypeError):
    """The training model returned something that holds no loss.

    >>> from mlpug.step_output import as_step_output
    >>> as_step_output(None, batch=None)
    Traceback (most recent call last):
    mlpug.errors.TrainingModelError: The training model returned None. ...
    """


class NonFiniteLoss(MlpugError, ArithmeticError):  # noqa: N818 - PyTorch's users know it by such a name
    """The loss of a batch, or a gradient, is NaN or infinite. The weights are as they were before that batch.

    Attributes:
        loss: of that batch; it may be finite where a gradient isn't.
        epoch: where it was, counted from 0, as in the logs.
        batch_step: the batch within that epoch.
        global_iter: the batch within all of training.

    >>> raise NonFiniteLoss(loss=float("nan"), epoch=1, batch_step=2, global_iter=7)
    Traceback (most recent call last):
    mlpug.errors.NonFiniteLoss: The loss is nan in epoch 1, at batch 2 (global_iter 7). ...
    """

    def __init__(self, loss: float, epoch: int, batch_step: int, global_iter: int) -> None:
        super().__init__(loss, epoch, batch_step, global_iter)  # what it is made of again in another process
        self.loss = loss
        self.epoch = epoch
        self.batch_step = batch_step
        self.global_iter = global_iter

    def __str__(self) -> str:
        what = f"The loss is {self.loss}" + (", but a gradient isn't finite," if math.isfinite(self.loss) else "")
        return (
            f"{what} in epoch {self.epoch}, at batch {self.batch_step} (global_iter {self.global_iter}). The weights "
            "are as they were before this batch. Look at its data, lower the learning rate, clip the gradients, or "
            'leave such batches out by DefaultTrainer(..., on_non_finite="skip").'
        )


class MissingDependencyError(MlpugError, ImportError):
    """A package that this backend needs isn't installed; the message names the extra that brings it.

    >>> from mlpug.errors import MissingDependencyError
    >>> issubclass(MissingDependencyError, ImportError)
    True
    """


class CheckpointError(MlpugError):
    """A checkpoint can't be written, read or used: the base of all errors of checkpoints.

    >>> from mlpug import checkpoints
    >>> from mlpug.errors import CheckpointError
    >>> try:
    ...     checkpoints.load("no-such-directory/latest.safetensors")
    ... except CheckpointError:
    ...     print("start from the beginning")
    start from the beginning
    """


class CheckpointNotFoundError(CheckpointError, FileNotFoundError):
    """There is no file at the path of the checkpoint.

    >>> from mlpug import checkpoints
    >>> checkpoints.load("no-such-directory/latest.safetensors")
    Traceback (most recent call last):
    mlpug.errors.CheckpointNotFoundError: There is no checkpoint no-such-directory/latest.safetensors. ...
    """


class CheckpointDamagedError(CheckpointError, ValueError):
    """The file isn't, byte for byte, what was written, or it never was a checkpoint that this mlpug can read.

    >>> from mlpug import checkpoints
    >>> checkpoints.verify(".")
    Traceback (most recent call last):
    mlpug.errors.CheckpointDamagedError: . is not a checkpoint: it is a directory, not a file. ...
    """


class CheckpointWriteError(CheckpointError, OSError):
    """A checkpoint couldn't be written, copied or deleted; `errno` says why, as in the OSError that it comes from.

    The older checkpoint at that path is untouched, unless the message says something else.

    >>> from mlpug import checkpoints
    >>> checkpoints.save("no-such-directory/latest.safetensors", {"epoch": 1})
    Traceback (most recent call last):
    mlpug.errors.CheckpointWriteError: Can't write the checkpoint no-such-directory/latest.safetensors: ...
    """


class CheckpointInUseError(CheckpointError):
    """Another run is writing the same checkpoints; the message names its process and host.

    >>> from mlpug.errors import CheckpointInUseError
    >>> issubclass(CheckpointInUseError, CheckpointError)
    True
    """


class CheckpointMismatchError(CheckpointError, ValueError):
    """The checkpoint is whole, but doesn't fit what it is restored into, such as weights of another shape.

    >>> from mlpug.errors import CheckpointMismatchError
    >>> issubclass(CheckpointMismatchError, ValueError)
    True
    """


class StateError(CheckpointError, TypeError):
    """The state holds something that a checkpoint can't; the message has its path, its type and what to do.

    >>> from mlpug import checkpoints
    >>> checkpoints.save("latest.safetensors", {"optimizer": {"betas": (0.9, 0.999)}})
    Traceback (most recent call last):
    mlpug.errors.StateError: The state at 'optimizer/betas' is a tuple, ...
    """


class MlpugWarning(UserWarning):
    """Category of all of mlpug's warnings, so that they can be filtered or turned into errors.

    >>> import warnings
    >>> from mlpug.errors import MlpugWarning
    >>> warnings.filterwarnings("error", category=MlpugWarning)  # doctest: +SKIP
    """
