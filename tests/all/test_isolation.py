"""A process has one of mlpug's Keras backends."""

import subprocess
import sys

import pytest

SAY = """
import mlpug.{first}
try:
    import mlpug.{second}
except Exception as error:
    print(type(error).__name__, error)
"""


@pytest.mark.parametrize(("first", "second"), [("jax", "tensorflow"), ("tensorflow", "jax")])
def test_the_second_backend_is_refused(first, second):
    command = [sys.executable, "-c", SAY.format(first=first, second=second)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=280)
    assert ran.stdout.startswith(f"ConfigurationError Keras was imported before mlpug.{second} and runs on {first}")
    assert f"KERAS_BACKEND={second}" in ran.stdout
    assert "use one of mlpug's Keras backends in a process" in ran.stdout
