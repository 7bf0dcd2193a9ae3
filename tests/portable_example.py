"""What is promised of examples/portable, whatever the backend is."""

import re
import signal

import numpy as np
from scripts import Signal, copy_example, run_script


def check_portable_example(mlp, folder, replaced):
    """It learns, and killed while it saves, it goes on as if nothing had been.

    Args:
        mlp: mlpug's module of the backend.
        folder: an empty one.
        replaced: what the script says instead, on this backend.
    """
    script = copy_example("portable", folder, "train.py", replaced)
    never_stopped, killed = folder / "never stopped", folder / "killed"
    arguments = ("--epochs", 6, "--output")

    ran = run_script(script, *arguments, never_stopped)
    assert ran.returncode == 0, ran.stderr
    assert float(re.fullmatch(r"Test set: loss .*, accuracy (.*)", ran.stdout.splitlines()[-1])[1]) > 0.85

    ended = run_script(script, *arguments, killed, sent=Signal("os.replace", 8, signal.SIGKILL))
    assert ended.returncode == -9, ended.stderr
    resumed = run_script(script, *arguments, killed)
    assert resumed.returncode == 0, resumed.stderr
    assert "2 epochs and 76 batches are done" in resumed.stdout
    assert resumed.stdout.splitlines()[-1] == ran.stdout.splitlines()[-1]
    assert_same_models(mlp, killed, never_stopped)


def assert_same_models(mlp, found, expected):
    """The best and the latest model in two folders: of the same batch, with the same weights, bit for bit."""
    for which in ("best", "latest"):
        ours, others = (
            mlp.load_model_checkpoint(folder / f"digits-{which}-model-checkpoint.safetensors")
            for folder in (found, expected)
        )
        assert (ours.epoch, ours.global_iter) == (others.epoch, others.global_iter)
        for weight, array in others.components["model"].items():
            np.testing.assert_array_equal(ours.components["model"][weight], array)
