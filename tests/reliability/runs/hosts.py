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
        importlib.import_module(f"mlpug.{name}")  # chooses Keras's backend
    return importlib.import_module(f"reliability.runs.{name if name in HOSTS[:2] else 'keras'}_run")
