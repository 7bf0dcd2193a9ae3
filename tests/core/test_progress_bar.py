"""The progress bar, in a real terminal and without one."""

import fcntl
import io
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import textwrap
import time

import pytest
import tqdm.notebook

from mlpug.callbacks import ProgressBar
from mlpug.callbacks.progress_bar import _bar_class
from mlpug.errors import ConfigurationError

SCRIPT = """
import sys, time
import numpy as np
from mlpug.callbacks import Callback, LogProgress, ProgressBar, TrainingMetricsLogger
from mlpug.evaluation import MetricEvaluator
from mlpug.testing import GradientDescent, LinearRegression, fake_trainer
from mlpug.trainers import TrainingManager

class Wait(Callback):
    def on_batch_training_completed(self, batch, logs):
        time.sleep({pause})
        if {stops} and logs["current"]["batch_step"] == 2:
            self.manager.stop_training()

model = LinearRegression(1)
trainer = fake_trainer(GradientDescent(model.parameters), model)
evaluator = MetricEvaluator(trainer=trainer)
batches = [(np.ones((2, 1)), np.full(2, float(number))) for number in range({num_batches})]
dataset = batches if {has_length} else iter(batches * 2)
callbacks = [
    TrainingMetricsLogger(evaluator),
    Wait(),
    ProgressBar(["training.batch.loss", "training.sliding_window.loss", "training_params.batch.lr"]),
    *([LogProgress(log_period=5)] if {reports} else []),
]
manager = TrainingManager(trainer, dataset, num_epochs={num_epochs}, callbacks=callbacks)
trainer.set_training_model(model)
manager.start_training()
"""
DEFAULTS = {"pause": 0.0, "stops": False, "num_batches": 8, "has_length": True, "reports": False, "num_epochs": 2}


def in_a_terminal(**changes):
    """What a script shows on a terminal of 200 columns, and the seconds that it took."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 200, 0, 0))  # lines and columns
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT.format(**{**DEFAULTS, **changes}))]
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    started = time.monotonic()
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    assert process.wait(30) == 0, shown.decode()
    os.close(ours)
    return shown.decode(), time.monotonic() - started


def test_each_epoch_is_a_bar_that_ends_full_with_its_metrics():
    shown, _ = in_a_terminal()
    for epoch in range(2):
        lines = re.findall(rf"Epoch {epoch}/1: 100%\|[^|]*\| 8/8 .*?\]", shown)
        assert lines
        assert re.search(r"training\.batch\.loss=\d", lines[-1])
        assert re.search(r"training\.sliding_window\.loss=\d", lines[-1])
        assert "lr=0.01" in lines[-1]


def test_it_is_drawn_ten_times_a_second_at_most():
    shown, seconds = in_a_terminal(pause=0.01, num_batches=100, num_epochs=1)
    drawn = re.findall(r"Epoch 0/0: +\d+%", shown)
    assert 4 <= len(drawn) <= 10 * seconds + 3  # the first, the last, and that it stays


def test_it_works_where_nobody_knows_how_long_an_epoch_is():
    shown, _ = in_a_terminal(has_length=False, num_epochs=1)
    assert "Epoch 0/0: 16batch" in shown


def test_reports_stand_on_lines_of_their_own():
    shown, _ = in_a_terminal(reports=True, pause=0.03)
    reports = [line for line in re.split(r"[\r\n]+", shown) if "READY" in line]
    assert len(reports) == 2
    assert all(re.sub(r"\x1b\[[^m]*[mA-Z]", "", line).startswith("Epoch ") for line in reports)


def test_an_epoch_that_is_cut_short_leaves_its_bar_as_it_was():
    shown, _ = in_a_terminal(stops=True, pause=0.15)
    assert re.search(r"Epoch 0/1: +38%\|[^|]*\| 3/8", shown)
    assert "100%" not in shown


def test_without_a_terminal_nothing_is_shown():
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT.format(**DEFAULTS))]
    environment = {**os.environ, "PYTHONPATH": ":".join(sys.path)}
    shown = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "%|" not in shown.stdout


def test_a_notebook_is_known_by_its_bars_though_its_output_is_no_terminal(monkeypatch):
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert not _bar_class()[1]
    monkeypatch.setattr("tqdm.auto.tqdm", tqdm.notebook.tqdm)
    assert _bar_class() == (tqdm.notebook.tqdm, True)


@pytest.mark.parametrize("paths", ["training.batch.loss", [3], {"loss": None}, 5])
def test_what_are_no_paths_is_refused(paths):
    with pytest.raises(ConfigurationError, match="metric_paths must be a list of metric paths"):
        ProgressBar(paths)


def test_a_path_that_nobody_writes_is_refused(make_manager, mean_model):
    with pytest.raises(ConfigurationError, match=r"training\.batch\.loss.*nobody writes"):
        make_manager([1.0], [ProgressBar(["training.batch.loss"])], mean_model)
