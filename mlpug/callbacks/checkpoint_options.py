"""Checks what a CheckpointManager is asked for when it is made."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mlpug.errors import ConfigurationError, StateError
from mlpug.plain import to_plain


def check_metric(metric: object, period: object, threshold: object) -> None:
    """Refuse what isn't the path of a metric, and options that would do nothing without one."""
    if metric is None and not (period is None and threshold is None):
        name = "metric_checkpoint_threshold" if period is None else "metric_monitor_period"
        raise ConfigurationError(
            f"{name} has no effect where metric_to_monitor is None. Leave it out, or name the metric to monitor."
        )
    if metric is not None and not (isinstance(metric, str) and all(metric.split("."))):
        raise ConfigurationError(
            'metric_to_monitor must be a path in the logs such as "validation.dataset.loss", or None to monitor none, '
            f"not {metric!r}."
        )


def check_combination(
    monitors: bool, creates_often: bool, create_every: object, archive_every: object, keep_archived: object
) -> None:
    """Refuse a CheckpointManager that does nothing, and options that would do nothing."""
    if not (monitors or creates_often or archive_every is not None):
        raise ConfigurationError(
            "A CheckpointManager without a metric to monitor, latest model checkpoint, training checkpoint and archive "
            "never saves anything. Ask for one of them, or leave the callback out."
        )
    if create_every is not None and not creates_often:
        raise ConfigurationError(
            f"create_checkpoint_every={create_every!r} has no effect where neither the latest model nor the training "
            "checkpoint is created. Leave it out, or create one of them."
        )
    if keep_archived is not None and archive_every is None:
        raise ConfigurationError(
            f"keep_archived={keep_archived!r} has no effect where nothing is archived. "
            "Leave it out, or give archive_last_model_checkpoint_every."
        )


def checked_path(path: object) -> Path:
    """The directory, if it can be one."""
    if isinstance(path, (str, os.PathLike)) and path != "":
        return Path(path)
    raise ConfigurationError(f'checkpoints_path must be a directory such as "checkpoints", not {path!r}.')


def checked_hyper_parameters(hyper_parameters: Any) -> Any:
    """The hyper-parameters, if a checkpoint can hold them."""
    try:
        to_plain(hyper_parameters, path=("model_hyper_parameters",))
    except StateError as error:
        raise ConfigurationError(f"model_hyper_parameters must be what a checkpoint can hold. {error}") from error
    return {} if hyper_parameters is None else hyper_parameters


def checked_base(base: object) -> str:
    """The start of file names, if it can be.

    >>> checked_base("runs/mnist")
    Traceback (most recent call last):
    mlpug.errors.ConfigurationError: base_checkpoint_filename must be the start of a file's name, such as "mnist", ...
    """
    if isinstance(base, str) and base.strip() and not set(base) & {"/", "\\", "\0"}:
        return base
    raise ConfigurationError(
        f'base_checkpoint_filename must be the start of a file\'s name, such as "mnist", not {base!r}. '
        "Give the directory as checkpoints_path; leave the name out to have the time as the name."
    )
