"""Hello World on Keras, each in a process of its own: what it prints, on both streams."""

import os
import pathlib
import re
import subprocess
import sys
import textwrap

import pytest

ROOT = pathlib.Path(__file__).parents[2]

RUNS = {
    "tensorflow": [(2, []), (1, ["--eager"])],  # the number of epochs, and what else is asked for
    "jax": [(2, [])],
}


def pytest_generate_tests(metafunc):
    """Run the examples of the backends that --backend names, or all; where it names none of these, that is an error."""
    asked_for = metafunc.config.getoption("--backend") or list(RUNS)
    runs = [(backend, *run) for backend in RUNS if backend in asked_for for run in RUNS[backend]]
    if not runs:
        raise pytest.UsageError(
            f"tests/keras/test_examples.py needs --backend {' or --backend '.join(RUNS)}, not {asked_for}."
        )
    ids = ["".join([backend, *options]) for backend, _, options in runs]
    metafunc.parametrize(("name", "num_epochs", "options"), runs, ids=ids)


def run_example(script, *arguments):
    # Not what the developer's shell says: what somebody sees who set nothing.
    unset = ("TF_CPP_MIN_LOG_LEVEL", "KERAS_BACKEND", "PYTHONWARNINGS")
    return subprocess.run(
        [sys.executable, f"examples/{script}", *arguments],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=ROOT,
        env={variable: value for variable, value in os.environ.items() if variable not in unset},
    )


def without_tensorflows_own_notices(printed):
    """Some processors make TensorFlow's native libraries say this when they are loaded, whatever the log level is."""
    notice = (
        r"(WARNING: All log messages before absl::InitializeLog\(\) |I0000 .*\] oneDNN custom operations are on\.).*\n"
    )
    return re.sub(rf"^{notice}", "", printed, flags=re.MULTILINE)


def test_hello_world_prints_what_mlpug_says_and_nothing_else(name, num_epochs, options):
    hello = run_example(f"hello_world_{name}.py", "--epochs", str(num_epochs), *options)
    assert hello.returncode == 0, hello.stderr
    assert without_tensorflows_own_notices(hello.stderr) == ""
    last = num_epochs - 1
    expected = f"""
        #{{79}}
        Epoch {last}/{last}\tREADY - Duration 0:00:\\d\\d
        Moving average:
        training       : loss          \\d\\.\\d{{3}}\\.

        Computed over dataset:
        validation     : loss          \\d\\.\\d{{3}}\\.



        INFO    : TrainingManager::start_training : Training completed\\. All good! ❤️

        real label = \\d, predicted label = \\d
    """
    assert re.search(textwrap.dedent(expected).strip() + r"\n$", hello.stdout), hello.stdout
    known = (
        r"#{79}|Epoch .*|Batch:|Moving average:|Computed over dataset:|(training|validation) .*|INFO .*|real label.*|"
    )
    assert [line for line in hello.stdout.splitlines() if not re.fullmatch(known, line)] == []
