"""These tests need the packages of every backend. Each backend gets a process: Keras fixes its own once in each."""

import concurrent.futures
import json
import os
import pathlib
import subprocess
import sys

import pytest

SCRIPTS = pathlib.Path(__file__).parent / "scripts"


@pytest.fixture(scope="module")
def in_processes():
    """Runs a script once for each case ``(backend, environment)``, with the same input; returns what they printed."""

    def run(script, cases, given, seconds=280):
        def one(case):
            backend, variables = case
            environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"} | variables
            command = [sys.executable, str(SCRIPTS / f"{script}.py"), backend]
            ran = subprocess.run(
                command, input=json.dumps(given), env=environment, capture_output=True, text=True, timeout=seconds
            )
            assert ran.returncode == 0, ran.stderr[-5000:]
            return json.loads(ran.stdout.splitlines()[-1])

        with concurrent.futures.ThreadPoolExecutor(max_workers=2) as pool:
            return list(pool.map(one, cases))

    return run
