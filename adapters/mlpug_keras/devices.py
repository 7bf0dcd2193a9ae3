"""On how many devices, and in how many processes, Keras would train: mlpug's own steps are for one of each so far."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import Any

import keras

from mlpug.adapter import Process
from mlpug.errors import ConfigurationError

_host = import_module(f"mlpug_keras.{keras.config.backend()}_devices")

_CURES = (
    "Make model and optimizer for one device. On all of them Keras itself trains, with mlpug's callbacks: "
    "model.fit(callbacks=[mlp.callbacks.as_native(...)])"
)


def check_one_device(who: str, parts: Iterable[Any]) -> None:
    """Refuse what Keras would share between several devices or processes.

    Args:
        who: would train it.
        parts: models, layers and optimizers, None among them too.

    Raises:
        ConfigurationError: it is shared, and how.

    >>> check_one_device("DefaultTrainer", [keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])])
    """
    number = processes().world_size
    if number > 1:
        raise ConfigurationError(
            f"{who} trains in one process so far, and this is one of {number} (jax.process_count()), which would "
            f"each train by itself and write the same files. Start one process. In {number} of them Keras itself "
            "trains, with mlpug's callbacks: model.fit(callbacks=[mlp.callbacks.as_native(...)]); or take "
            f"mlpug.pytorch: DefaultTrainer(..., devices={number})."
        )
    distribution = keras.distribution.distribution()
    if distribution is not None:
        raise ConfigurationError(
            f"{who} trains on one device so far, and keras.distribution is set to a {type(distribution).__name__}, "
            f"over which nothing would be shared. Call keras.distribution.set_distribution(None) before anything is "
            f"made. {_CURES}."
        )
    sharing = _host.sharing([part for part in parts if part is not None])
    if sharing is not None:
        raise ConfigurationError(f"{who} trains on one device so far, and {sharing}. {_CURES}.")


def check_no_scope(who: str) -> None:
    """Refuse to begin in the scope of a strategy, though it has one replica: data of mlpug's is none of a strategy's.

    Raises:
        ConfigurationError: there is one.

    >>> check_no_scope("DefaultTrainer")
    """
    name = _host.scope()
    if name is not None:
        raise ConfigurationError(
            f"{who} trains on one device so far, and this is in the scope of a {name}. Leave that before. {_CURES}."
        )


def processes() -> Process:
    """This process among those that Keras trains in."""
    rank, world_size = _host.processes()
    return Process(rank, world_size)


def no_checkpoints() -> str | None:
    """Why there can be none in a ``fit`` of Keras's, as `mlpug.trainers.DefaultTrainer` takes it."""
    number = processes().world_size
    if number == 1:
        return None
    return (
        f"Keras trains in {number} processes (jax.process_count()), and mlpug gathers no states from them so far. "
        "Let keras.callbacks.ModelCheckpoint save, or train in one process, on several devices too."
    )
