"""What a test of processes leaves in the environment would be taken by the next one for its own."""

import os

import pytest


@pytest.fixture(autouse=True)
def nothing_left_in_the_environment():
    """Lightning says there which process this is, also where it is the only one, and leaves it."""
    before = set(os.environ)
    yield
    for name in set(os.environ) - before - {"PYTEST_CURRENT_TEST"}:
        del os.environ[name]
