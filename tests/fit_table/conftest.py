"""Each test class says which kinds of data and of validation it has; ``--whole-table`` is all with all of them.

Without it each kind is in one row, which is trained straight, or stopped at one place and resumed: by turns.
Give one backend on the command line: Keras fixes its own once per process.
"""

import importlib

import pytest
from contract.conftest import backend  # noqa: F401

pytest.register_assert_rewrite("fit_table.checks")


def pytest_configure(config):
    """Import mlpug's module of the backend before the tests import Keras."""
    for name in config.getoption("--backend") or ():
        importlib.import_module(f"mlpug.{name}")


def pytest_generate_tests(metafunc):
    """Make the rows, where the tests' own libraries are loaded."""
    if "row" not in metafunc.fixturenames:
        return
    table = importlib.import_module("fit_table.rows")
    is_whole, resumes = metafunc.config.getoption("--whole-table"), "place" in metafunc.fixturenames
    make = table.all_rows if is_whole else table.sample
    rows = list(make(metafunc.cls.kinds, metafunc.cls.validations))[0 if is_whole else resumes :: 1 if is_whole else 2]
    if not resumes:
        metafunc.parametrize("row", rows, ids=[row.name for row in rows])
        return
    cases = []
    for number, row in enumerate(rows):
        places = list(table.places(row))
        cases += [(row, place) for place in (places if is_whole else [places[number % len(places)]])]
    metafunc.parametrize(("row", "place"), cases, ids=[f"{row.name} | {place}" for row, place in cases])
