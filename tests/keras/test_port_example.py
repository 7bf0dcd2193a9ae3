"""The Keras project and what it has become with mlpug: the same numbers, and it goes on when it was ended."""

import csv
import re
import signal

import numpy as np
import pytest
from portable_example import assert_same_models, check_portable_example
from scripts import Signal, copy_example, run_script

from mlpug import checkpoints

pytestmark = pytest.mark.timeout(900)  # each runs several scripts, which load TensorFlow or JAX

NUM_EPOCHS = 20
CALLS = 38 + 10  # of an epoch: batches that are trained on, and those of the validation set


@pytest.fixture(scope="module")
def name(request):
    """Of the backend: tensorflow or jax."""
    (name,) = request.config.getoption("--backend")
    return name


@pytest.fixture(scope="module")
def folder(name, tmp_path_factory):
    """The project. In after.py the import says which backend it runs on: this one line is changed."""
    copy = tmp_path_factory.mktemp("examples")
    line = "import mlpug.{} as mlp"
    return copy_example("port_keras", copy, "after.py", {line.format("tensorflow"): line.format(name)}).parent


def run(script, output, **options):
    return run_script(script, "--epochs", NUM_EPOCHS, "--output", output, **options)


def log(output):
    """What Keras's CSVLogger wrote: a row for each epoch."""
    with open(output / "log.csv", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def assert_same_log(found, expected):
    assert [list(row) for row in found] == [list(row) for row in expected]
    np.testing.assert_allclose(
        [list(row.values()) for row in found], [list(row.values()) for row in expected], rtol=1e-6
    )


@pytest.fixture(scope="module")
def runs(name, folder, tmp_path_factory):
    """What each of the two wrote, never stopped, and what it said of the test set."""
    found = {}
    for script, variables in (("before", {"KERAS_BACKEND": name}), ("after", {})):
        output = tmp_path_factory.mktemp(script)
        ran = run(folder / f"{script}.py", output, variables=variables)
        assert ran.returncode == 0, ran.stderr
        found[script] = output, ran.stdout.splitlines()[-1]
    return found


def test_both_log_the_same(runs):
    (before, of_before), (after, of_after) = runs["before"], runs["after"]
    assert_same_log(log(after), log(before))
    assert 5 < len(log(after)) < NUM_EPOCHS  # EarlyStopping has stopped both
    assert log(after)[-1]["learning_rate"] < 0.5 * log(after)[0]["learning_rate"]  # ReduceLROnPlateau
    assert of_after == of_before
    assert float(re.fullmatch(r"Test set: loss .*, accuracy (.*)", of_after)[1]) > 0.85


ENDS = {  # how: the signal, and the exit status
    "killed in an epoch": (Signal("digits.Digits.__getitem__", 3 * CALLS + 20, signal.SIGKILL), -9),
    "asked to end": (Signal("digits.Digits.__getitem__", 3 * CALLS + 20, signal.SIGTERM), 143),
}


@pytest.mark.parametrize("end", ENDS)
def test_started_again_it_goes_on_as_if_nothing_had_been(backend, folder, runs, tmp_path, end):
    sent, status = ENDS[end]
    ended = run(folder / "after.py", tmp_path, sent=sent)
    assert ended.returncode == status, ended.stderr

    resumed = run(folder / "after.py", tmp_path)

    assert resumed.returncode == 0, resumed.stderr
    num_done = int(re.search(r"3 epochs and (\d+) batches are done", resumed.stdout)[1])
    assert num_done == 3 * 38 if status == -9 else 3 * 38 < num_done < 4 * 38
    output, of_test_set = runs["after"]
    assert_same_log(log(tmp_path), log(output))
    assert resumed.stdout.splitlines()[-1] == of_test_set
    assert_same_models(backend.mlp, tmp_path, output)


def test_the_portable_script_goes_on_too(backend, name, tmp_path):
    backend_and_model = {
        "mlpug.pytorch as mlp": f"mlpug.{name} as mlp",
        "from digits_on_pytorch": "from digits_on_keras",
    }
    check_portable_example(backend.mlp, tmp_path, backend_and_model)


ADDED = """
        mlp.callbacks.as_native(mlp.callbacks.CheckpointManager(options.output, "digits", batch_level=False)),"""


def test_with_one_line_before_has_checkpoints_too_and_the_same_losses(backend, name, runs, tmp_path):
    replaced = {
        "import keras\nfrom": f"import mlpug.{name} as mlp\nimport keras\nfrom",
        "callbacks = [": f"callbacks = [{ADDED}",
    }
    script = copy_example("port_keras", tmp_path, "before.py", replaced)
    output = tmp_path / "output"
    ran = run_script(script, "--epochs", NUM_EPOCHS, "--output", output)
    assert ran.returncode == 0, ran.stderr
    native, of_test_set = runs["before"]
    assert log(output) == log(native)
    assert ran.stdout.splitlines()[-1] == of_test_set
    assert_same_models(backend.mlp, output, runs["after"][0])
    assert checkpoints.describe(output / "digits-training-checkpoint.safetensors").description["kind"] == "training"
