"""The Lightning project and what it has become with mlpug: the same numbers, and it goes on when it was ended."""

import csv
import signal

import numpy as np
import pytest
import torch
from portable_example import assert_same_models, check_portable_example
from scripts import EXAMPLES, Signal, added_on_the_page, copy_example, run_script

import mlpug.pytorch as mlp
from mlpug import checkpoints

pytestmark = pytest.mark.timeout(900)  # each runs several scripts, which load Lightning

FOLDER = EXAMPLES / "port_lightning"
BATCHES = 38  # in an epoch
NUM_EPOCHS = 20


def run(script, output, **options):
    return run_script(FOLDER / f"{script}.py", "--epochs", NUM_EPOCHS, "--output", output, **options)


def rows(output, version=0):
    """What Lightning's CSVLogger wrote: texts, so that no digit is lost."""
    with open(output / "lightning_logs" / f"version_{version}" / "metrics.csv", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def checkpoint(output, name):
    return mlp.load_model_checkpoint(output / f"digits-{name}-model-checkpoint.safetensors")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """What each of the two wrote, never stopped."""
    outputs = {name: tmp_path_factory.mktemp(name) for name in ("before", "after")}
    for name, output in outputs.items():
        ran = run(name, output)
        assert ran.returncode == 0, ran.stderr
    return outputs


def test_both_log_the_same(runs):
    before, after = rows(runs["before"]), rows(runs["after"])
    assert before == after
    num_epochs = len([row for row in before if row["val_loss"]])
    assert 5 < num_epochs < NUM_EPOCHS  # EarlyStopping has stopped both
    assert len([row for row in before if row["train_loss"]]) == num_epochs * BATCHES
    assert float(before[-1]["test_acc"]) > 0.85


def test_the_best_model_is_the_one_that_lightning_keeps(runs):
    (path,) = runs["before"].glob("epoch=*.ckpt")
    native, ours = torch.load(path), checkpoint(runs["after"], "best")
    assert native["state_dict"].keys() == ours.components["model"].keys()
    for name, weight in native["state_dict"].items():
        np.testing.assert_array_equal(ours.components["model"][name], weight)
    assert (ours.epoch, ours.global_iter) == (native["epoch"], native["global_step"])


ENDS = {  # how: the signal, the exit status, and the number of batches that aren't trained again
    "killed in a batch": (Signal("digits.DigitClassifier.training_step", 3 * BATCHES + 20, signal.SIGKILL), -9, 114),
    # A validation has 10 batches, and 2 come before training.
    "killed in a validation": (Signal("digits.DigitClassifier.validation_step", 2 + 35, signal.SIGKILL), -9, 114),
    "asked to end": (Signal("digits.DigitClassifier.training_step", 3 * BATCHES + 20, signal.SIGTERM), 143, 134),
}


@pytest.mark.parametrize("end", ENDS)
def test_started_again_it_goes_on_as_if_nothing_had_been(runs, tmp_path, end):
    sent, status, num_done = ENDS[end]
    ended = run("after", tmp_path, sent=sent)
    assert ended.returncode == status, ended.stderr

    resumed = run("after", tmp_path)

    assert resumed.returncode == 0, resumed.stderr
    assert f"3 epochs and {num_done} batches are done" in resumed.stdout
    # Lightning's CSVLogger begins another file.
    assert rows(tmp_path, version=1) == [row for row in rows(runs["after"]) if int(row["step"]) >= num_done]
    assert_same_models(mlp, tmp_path, runs["after"])


def test_with_one_line_before_has_checkpoints_too_and_the_same_losses(runs, tmp_path):
    last_import = "from lightning.pytorch.loggers import CSVLogger\n"
    replaced = {
        last_import: f"{last_import}\nimport mlpug.pytorch as mlp\n",
        "    callbacks = [\n": f"    callbacks = [\n{added_on_the_page()}",
    }
    script = copy_example("port_lightning", tmp_path, "before.py", replaced)
    output = tmp_path / "output"
    ran = run_script(script, "--epochs", NUM_EPOCHS, "--output", output)
    assert ran.returncode == 0, ran.stderr
    assert rows(output) == rows(runs["before"])
    assert_same_models(mlp, output, runs["after"])
    assert checkpoints.describe(output / "digits-training-checkpoint.safetensors").description["kind"] == "training"


def test_the_portable_script_goes_on_too(tmp_path):
    check_portable_example(mlp, tmp_path, replaced={})
