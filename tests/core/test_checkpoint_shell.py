"""`python -m mlpug.checkpoints` tells people what is in a file, and scripts whether it is whole."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mlpug import checkpoints
from mlpug.checkpoints.__main__ import main


@pytest.fixture
def path(tmp_path):
    state = {"model": {"weight": np.zeros((100, 50), np.float32), "bias": np.zeros(100)}}
    checkpoints.save(tmp_path / "latest.safetensors", state, {"kind": "training", "metrics": {"loss": 0.5}})
    return str(tmp_path / "latest.safetensors")


@pytest.fixture
def damaged(path, tmp_path):
    (tmp_path / "damaged").write_bytes(Path(path).read_bytes()[:-1])
    return str(tmp_path / "damaged")


def test_describe(path, capsys):
    assert main(["describe", path]) == 0

    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{path}: 21.")
    assert first.endswith(" kB, format 1, 2 tensors")
    assert lines == [
        "  kind: training",
        "  metrics: {'loss': 0.5}",
        "  model/bias    F64   [100]",
        "  model/weight  F32   [100, 50]",
    ]


def test_what_a_file_says_never_controls_the_terminal(tmp_path, capsys):
    path = tmp_path / "foreign"
    checkpoints.save(path, {"\x1b[2J": {"a": np.zeros(2)}}, {"kind\x07": "\x1b]0;a title\x07", "run": ["\x9b2J"]})
    assert main(["describe", str(path)]) == 0
    said = capsys.readouterr().out
    assert all(letter.isprintable() or letter == "\n" for letter in said)
    assert r"kind\x07: \x1b]0;a title\x07" in said
    assert r"\x1b[2J/a" in said


def test_verify(path, capsys):
    assert main(["verify", path, path]) == 0
    assert capsys.readouterr().out == f"{path}: whole\n" * 2


@pytest.mark.parametrize("command", ["describe", "verify"])
def test_files_that_are_wrong_do_not_keep_it_from_the_others(command, path, damaged, capsys):
    assert main([command, "missing", damaged, path]) == 1

    shown = capsys.readouterr()
    missing, cut_short = shown.err.splitlines()
    assert missing.startswith("There is no checkpoint missing.")
    assert cut_short.startswith(f"{damaged} is not a whole checkpoint:")
    assert shown.out.startswith(f"{path}: ")


@pytest.mark.parametrize("arguments", [[], ["verify"], ["repair", "file"]])
def test_a_wrong_command_says_how_it_is_used(arguments, capsys):
    with pytest.raises(SystemExit) as raised:
        main(arguments)

    assert raised.value.code == 2
    assert "usage: python -m mlpug.checkpoints" in capsys.readouterr().err


def test_a_shell_gets_the_exit_status(path, damaged):
    def status(*arguments):
        run = subprocess.run([sys.executable, "-m", "mlpug.checkpoints", *arguments], capture_output=True, timeout=60)
        return run.returncode

    assert (status("verify", path), status("verify", damaged), status()) == (0, 1, 2)
