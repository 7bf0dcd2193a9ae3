"""Each test module says which kinds of data and of validation it has; ``--whole-table`` is all with all of them.

Give one backend on the command line: Keras fixes its own once per process.
"""

import importlib
import itertools

from contract.conftest import backend  # noqa: F401


def pytest_configure(config):
    """Import mlpug's module of the backend before the tests import Keras."""
    for name in config.getoption("--backend") or ():
        importlib.import_module(f"mlpug.{name}")


def pytest_generate_tests(metafunc):
    """Make the rows; without the option each kind of data, and of validation, is in one of them at least."""
    if "row" not in metafunc.fixturenames:
        return
    module = importlib.import_module("fit_table.rows")
    make = module.all_rows if metafunc.config.getoption("--whole-table") else module.sample
    rows = list(make(metafunc.cls.kinds, metafunc.cls.validations))
    if "place" not in metafunc.fixturenames:
        metafunc.parametrize("row", rows, ids=[row.name for row in rows])
        return
    pairs = list(itertools.chain.from_iterable(((row, place) for place in module.places(row)) for row in rows))
    metafunc.parametrize(("row", "place"), pairs, ids=[f"{row.name} | {place}" for row, place in pairs])
