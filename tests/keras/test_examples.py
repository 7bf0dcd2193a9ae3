"""The examples on Keras, each in a process of its own: what is printed, on both streams."""

import pathlib
import re
import subprocess
import sys
import textwrap

import pytest

ROOT = pathlib.Path(__file__).parents[2]

RUNS = {
    "tensorflow": ["hello_world_tensorflow.py", "--epochs", "2"],
    "tensorflow-eager": ["hello_world_tensorflow.py", "--eager", "--epochs", "1"],
    "jax": ["hello_world_jax.py", "--epochs", "2"],
}

# The epoch's number is left to each run.
END = """
    #{79}
    Epoch LAST/LAST\tREADY - Duration 0:\\d\\d:\\d\\d
    Moving average:
    training       : loss          \\d\\.\\d{3}\\.

    Computed over dataset:
    validation     : loss          \\d\\.\\d{3}\\.



    INFO    : TrainingManager::start_training : Training completed\\. All good! ❤️

    real label = \\d, predicted label = \\d
"""
KNOWN = r"#{79}|Epoch .*|Batch:|Moving average:|Computed over dataset:|(training|validation) .*|INFO .*|real label.*|"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A run for each --backend that has an example; none of them is an error, not a skip."""
