"""The example that kills itself and goes on."""

import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[2]


def test_it_shows_that_the_weights_are_the_same():
    shown = subprocess.run(
        [sys.executable, "examples/resume_pytorch.py"], capture_output=True, text=True, timeout=280, cwd=ROOT
    )

    assert (shown.returncode, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    assert lines[1:3] == ["137 batches are done: killed.", "The process ended with exit status -9."]
    assert "2 epochs and 130 batches are done" in lines[3]
    names = ("1.weight", "1.bias", "4.weight", "4.bias")
    assert lines[-4:] == [f"{name}: the same, bit for bit" for name in names]
