"""Give `--backend tensorflow`: Keras fixes its own once per process."""

import importlib

from contract.conftest import backend  # noqa: F401


def pytest_configure(config):
    """Import mlpug's module of the backend before the tests import Keras."""
    if "tensorflow" in (config.getoption("--backend") or ()):
        importlib.import_module("mlpug.tensorflow")
