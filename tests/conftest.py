"""Which adapters the contract suite runs on is said on the command line, so that none is left out silently."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--backend", action="append", help="run the contract suite on this adapter; give it again for more"
    )
    parser.addoption(
        "--kills", type=int, default=20, help="how often the reliability suite kills runs at random moments"
    )
    parser.addoption(
        "--whole-table",
        action="store_true",
        help="all rows of the long tables, not a sample of them",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        names = metafunc.config.getoption("--backend") or ["fake"]
        metafunc.parametrize("backend", names, indirect=True, scope="function")
