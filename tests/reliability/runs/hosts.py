"""The hosts by the names that the command line has for backends."""

import importlib
import os
from types import ModuleType

HOSTS = ("fake", "lightning", "tensorflow", "jax")


def host(name: str) -> ModuleType:
    """The module that makes the run: ``make(settings, passed)``, and the KINDS of data that it has."""
    if name not in HOSTS:
        raise ValueError(f"{name!r} is none of {', '.join(HOSTS)}")
    if name in ("tensorflow", "jax"):
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    return [importlib.import_module(module) for module in preloaded(name)][-1]


def preloaded(name: str) -> list[str]:
    """The modules that a run needs, in the order in which they must be imported; the last one makes it."""
    if name in ("tensorflow", "jax"):
        return [f"mlpug.{name}", "reliability.runs.keras_run"]  # the first chooses Keras's backend
    return [f"reliability.runs.{name}_run"]
