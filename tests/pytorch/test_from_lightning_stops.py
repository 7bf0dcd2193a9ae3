"""A LightningModule's run that an error, a signal or a stop ended goes on as if it had never stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import pytorch_lightning as pl
from pytorch.native_projects import Adversarial, Classifier, Data, Measuring
from pytorch.native_runs import ported, same

import mlpug.pytorch as mlp
from mlpug import checkpoints

LEVELS = [("training", "batch"), ("training", "epoch"), ("validation", "dataset")]


class BrokenError(Exception):
    pass


def breaking(base, where, at):
    """The module, with an error the at-th time that it comes by; with at=None, without."""

    class Breaking(base):
        passed = 0

        def pass_by(self, place):
            if place == where and at is not None:
                self.passed += 1
                if self.passed == at:
                    raise BrokenError(where)

        def on_train_epoch_start(self):
            self.pass_by("epoch start")

        def on_train_batch_start(self, batch, batch_idx):
            self.pass_by("batch start")

        def training_step(self, batch, batch_idx):
            self.pass_by("before the step")
            loss = super().training_step(batch, batch_idx)
            self.pass_by("after the step")
            return loss

        def on_after_backward(self):
            self.pass_by("after backward")

        def on_before_optimizer_step(self, optimizer):
            self.pass_by("before the update")

        def on_train_batch_end(self, outputs, batch, batch_idx):
            self.pass_by("batch end")

        def on_validation_start(self):
            self.pass_by("validation start")

        def validation_step(self, batch, batch_idx):
            self.pass_by("validation")
            return super().validation_step(batch, batch_idx)

        def on_validation_epoch_end(self):
            self.pass_by("validation end")

        def on_train_epoch_end(self):
            self.pass_by("epoch end")

    return Breaking


class Native(pl.Callback):
    """What one of Lightning's callbacks hears of ends."""

    def __init__(self):
        self.heard = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.heard.append(("epoch", trainer.current_epoch, trainer.global_step))

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.heard.append(("validation", trainer.global_step))


class Rows(mlp.callbacks.Callback):
    def __init__(self):
        self.rows = []

    def on_batch_training_completed(self, batch, logs):
        current = logs["current"]
        seen = [dict(current[name].get(level, {})) for name, level in LEVELS if name in current]
        self.rows.append(("batch", current["global_iter"], seen))

    def on_epoch_completed(self, logs):
        self.rows.append(("epoch", logs["epoch"], [dict(logs["current"][name][level]) for name, level in LEVELS]))


def saves(folder):
    return mlp.callbacks.CheckpointManager(
        folder, "run", metric_to_monitor=None, create_checkpoint_every=1000, allow_checkpointing_at_start=False
    )


def checkpoint_in(folder):
    return folder / "run-training-checkpoint.safetensors"


def assert_goes_on(whole, rows, resumed, of_resumed):
    assert of_resumed.rows
    assert same(rows.rows[len(rows.rows) - len(of_resumed.rows) :], of_resumed.rows)
    for name in ("weights", "optimizers", "schedules", "steps", "epochs", "shown", "random"):
        assert same(whole.outcome[name], resumed.outcome[name]), name


PLACES = [
    ("epoch start", 2),
    ("batch start", 12),
    ("before the step", 12),
    ("after the step", 12),
    ("after backward", 5),
    ("before the update", 12),
    ("batch end", 12),
    ("batch end", 16),  # an epoch's last batch
    ("validation start", 3),
    ("validation", 9),
    ("validation end", 2),
    ("epoch end", 2),
]


@pytest.mark.parametrize(("where", "at"), PLACES)
@pytest.mark.parametrize("arguments", [{}, {"val_check_interval": 3}], ids=["by epoch", "within epochs"])
def test_an_error_anywhere(where, at, arguments, tmp_path):
    rows = Rows()
    whole = ported(breaking(Measuring, where, None), Data, callbacks=[rows], **arguments)
    with pytest.raises(BrokenError):
        ported(breaking(Measuring, where, at), Data, callbacks=[saves(tmp_path)], **arguments)
    of_resumed = Rows()
    resumed = ported(
        breaking(Measuring, where, None), Data, callbacks=[of_resumed], resume_from=checkpoint_in(tmp_path), **arguments
    )
    assert_goes_on(whole, rows, resumed, of_resumed)


def test_an_error_between_two_optimizers_leaves_no_checkpoint_of_half_a_step(tmp_path):
    class Half(Adversarial):
        def clip_gradients(self, *arguments):
            if len(self.seen) > 30:
                raise BrokenError

    with pytest.raises(BrokenError):
        ported(Half, Data, callbacks=[saves(tmp_path)])
    assert not checkpoint_in(tmp_path).exists()


class StopAt(mlp.callbacks.Callback):
    """Asks to stop, or sends a signal, after so many batches."""

    def __init__(self, batches, send=None):
        self.batches, self.send = batches, send

    def on_batch_training_completed(self, batch, logs):
        if logs["current"]["global_iter"] + 1 == self.batches:
            if self.send is None:
                self.manager.stop_training()
            else:
                os.kill(os.getpid(), self.send)


@pytest.mark.parametrize("send", [None, signal.SIGINT])
@pytest.mark.parametrize("batches", [3, 8, 13])
@pytest.mark.parametrize("arguments", [{}, {"val_check_interval": 3}], ids=["by epoch", "within epochs"])
@pytest.mark.parametrize("base", [Measuring, Adversarial])
def test_a_stop_in_the_middle_is_no_end(base, arguments, batches, send, tmp_path):
    def native_heard(**options):
        heard = Native()
        return heard, {"callbacks": [heard, *options.pop("callbacks")], **options}

    rows, of_resumed = Rows(), Rows()
    all_heard, options = native_heard(callbacks=[rows])
    whole = ported(base, Data, **options, **arguments)
    first, options = native_heard(callbacks=[StopAt(batches, send), saves(tmp_path)])
    ported(base, Data, **options, **arguments)
    then, options = native_heard(callbacks=[of_resumed])
    resumed = ported(base, Data, resume_from=checkpoint_in(tmp_path), **options, **arguments)
    assert_goes_on(whole, rows, resumed, of_resumed)
    assert first.heard + then.heard == all_heard.heard


KILLED = """
import sys
import time
import pytorch_lightning as pl
import mlpug.pytorch as mlp
sys.path.insert(0, sys.argv[1])
from pytorch.native_projects import Data, Measuring
from pytorch.native_runs import ported

class Slow(mlp.callbacks.Callback):
    def on_batch_training_completed(self, batch, logs):
        print("batch", logs["current"]["global_iter"], flush=True)
        time.sleep(1 if logs["current"]["global_iter"] in (9, 15) else 0.02)  # long enough to be killed in

saves = mlp.callbacks.CheckpointManager(sys.argv[2], "run", metric_to_monitor=None, create_checkpoint_every=1)
ported(Measuring, Data, callbacks=[Slow(), saves], resume_from="auto")
"""


def test_a_killed_process_goes_on(tmp_path):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    tests, folder = str(Path(__file__).parents[1]), tmp_path / "checkpoints"

    def start():
        return subprocess.Popen(
            [sys.executable, str(script), tests, str(folder)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    for until in ("batch 9\n", "batch 15\n"):
        process = start()
        for line in process.stdout:
            if line == until:
                break
        time.sleep(0.01)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    process = start()
    said, errors = process.communicate(timeout=280)
    assert process.returncode == 0, errors
    assert "Training goes on from" in said
    assert "batch 23\n" in said
    assert "batch 9\n" not in said
    whole = ported(Measuring, Data)
    state = checkpoints.load(checkpoint_in(folder))
    for name, weight in whole.module.state_dict().items():
        assert state["model"]["model"][name].tolist() == weight.tolist(), name


def test_an_early_stop_by_lightnings_own_callback_is_an_end(tmp_path):
    stop = pl.callbacks.EarlyStopping("val_loss", patience=0, min_delta=10.0)
    trained = ported(Classifier, Data, num_epochs=9, callbacks=[stop, saves(tmp_path)])
    assert trained.lightning.current_epoch == 2
    assert trained.manager.logs["epoch"] == 1
