"""Runs Keras's own tests, which its package brings, as `plugin` says: natively, by from_keras and beside as_native.

    python tests/downstream/run.py [tensorflow] [jax]

Both backends where none is named. The exit status isn't 0 where anything has failed.
"""

import importlib.util
import os
import pathlib
import subprocess
import sys
import tempfile

FOLDER = pathlib.Path(__file__).parent
WAYS = ("natively", "from_keras", "as_native")


def tests_of_keras():
    source = pathlib.Path(importlib.util.find_spec("keras").origin).parent / "src"
    return [str(source / "trainers" / "trainer_test.py"), str(source / "callbacks")]


def run(backend, way, noted):
    """Return the exit status of pytest."""
    paths = [str(FOLDER.parent), os.environ.get("PYTHONPATH")]
    variables = {"KERAS_BACKEND": backend, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    options = ["-c", str(FOLDER / "pytest.ini"), "-p", "downstream.plugin", "--fits", way, "--noted", str(noted)]
    command = [sys.executable, "-m", "pytest", *options, *tests_of_keras()]
    return subprocess.run(command, env=os.environ | variables, check=False).returncode


def main():
    with tempfile.TemporaryDirectory() as folder:
        statuses = [
            run(backend, way, pathlib.Path(folder) / backend)
            for backend in sys.argv[1:] or ("tensorflow", "jax")
            for way in WAYS
        ]
    sys.exit(any(statuses))


if __name__ == "__main__":
    main()
