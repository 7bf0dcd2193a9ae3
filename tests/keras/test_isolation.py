"""What an import loads, and what it refuses, each in a process of its own."""

import json
import os
import subprocess
import sys

import keras
import pytest

OTHER = {"tensorflow": "jax", "jax": "tensorflow"}

# Notes who asks for which library, also where that isn't installed.
WATCH = """
import json, sys
asked = []
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "tensorflow", "jax", "keras"):
            frame = sys._getframe(1)
            while "importlib" in frame.f_code.co_filename:
                frame = frame.f_back
            asked.append((name, frame.f_globals["__name__"].split(".")[0]))
sys.meta_path.insert(0, Watch())
"""

HIDE = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {hidden!r}:
            raise ModuleNotFoundError("No module named {hidden}", name={hidden!r})
sys.meta_path.insert(0, Hide())
"""

SAY_THE_ERROR = """
try:
    import mlpug.{backend}
except Exception as error:
    print(type(error).__module__, type(error).__name__, error)
else:
    print("It was imported.")
"""


@pytest.fixture
def name(backend):
    return backend.mlp.__name__.removeprefix("mlpug.")


def in_a_process(code, **variables):
    environment = {key: value for key, value in os.environ.items() if key not in ("KERAS_BACKEND", "PYTHONPATH")}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment | variables, capture_output=True, text=True, timeout=280
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_the_import_chooses_the_backend_and_asks_for_no_other_library(name):
    code = WATCH + f"import mlpug.{name}, keras; print(keras.config.backend(), json.dumps(asked))"
    backend, asked = in_a_process(code, KERAS_BACKEND=OTHER[name]).split(" ", maxsplit=1)
    assert backend == name
    asked = {tuple(pair) for pair in json.loads(asked)}
    assert (name, "mlpug_keras") in asked
    foreign = {(library, asker) for library, asker in asked if library in ("torch", OTHER[name])}
    # What the hosts ask for themselves, where it is installed: TensorFlow's converter to its Lite format, Keras's FFT.
    assert foreign <= {("jax", "tensorflow"), ("jax", "keras")}


@pytest.mark.parametrize("is_backend", [True, False])
def test_a_missing_package_names_the_extra(name, is_backend):
    hidden = name if is_backend else "keras"
    error = in_a_process(HIDE.format(hidden=hidden) + SAY_THE_ERROR.format(backend=name))
    assert error.startswith("mlpug.errors MissingDependencyError")
    assert f"No module named {hidden}" in error
    assert f"pip install 'mlpug[{name}]'" in error


def test_the_keras_before_3_is_refused_where_it_would_be_used(name):
    said = in_a_process(SAY_THE_ERROR.format(backend=name), TF_USE_LEGACY_KERAS="1")
    if name == "tensorflow":
        assert said.startswith("mlpug.errors ConfigurationError")
        assert "unset TF_USE_LEGACY_KERAS" in said
    else:
        assert said == "It was imported."


def test_these_tests_run_on_the_backend_that_was_asked_for(name):
    assert keras.config.backend() == name
