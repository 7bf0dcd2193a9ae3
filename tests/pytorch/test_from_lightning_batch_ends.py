"""An error behind a batch, before Lightning is done with it: a resumed run does what was left to do."""

import pytest
import torch
from lightning_utilities.core.rank_zero import rank_zero_only
from pytorch.native_projects import Data, Measuring
from pytorch.native_runs import ported, same
from pytorch_lightning.loggers.logger import Logger
from torch.optim import lr_scheduler as schedules

import mlpug.pytorch as mlp


class BrokenError(Exception):
    pass


class Rows(Logger):
    """What is logged at which step; not of each batch of a validation, which Lightning numbers by themselves."""

    name, version = "rows", 0

    def __init__(self):
        super().__init__()
        self.rows = []

    @rank_zero_only
    def log_metrics(self, metrics, step=None):
        if "val/loss_step" in metrics:
            return
        self.rows.append((step, {name: float(value) for name, value in metrics.items()}))

    def log_hyperparams(self, *arguments, **options):
        pass


class Scheduled(Measuring):
    """A plateau that is looked for after each batch; it may break behind one."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def on_train_batch_end(self, outputs, batch, batch_idx):
        if self.trainer.global_step == self.at:
            raise BrokenError

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        schedule = schedules.ReduceLROnPlateau(optimizer, patience=1, factor=0.9, threshold=0.5)
        monitor = {"scheduler": schedule, "monitor": "train/loss_step", "interval": "step"}
        return {"optimizer": optimizer, "lr_scheduler": monitor}


class Breaks(mlp.callbacks.Callback):
    """Breaks when it hears of the end of a batch."""

    def __init__(self, at):
        self.at = at

    def on_batch_training_completed(self, batch, logs):
        if logs["current"]["global_iter"] + 1 == self.at:
            raise BrokenError


def run(folder, of_module=None, of_callback=None, resume_from=None, **arguments):
    saves = mlp.callbacks.CheckpointManager(folder, "run", metric_to_monitor=None, create_checkpoint_every=1000)
    rows = Rows()
    trained = ported(
        lambda: Scheduled(of_module),
        Data,
        2,
        callbacks=[Breaks(of_callback), saves],
        resume_from=resume_from,
        logger=rows,
        log_every_n_steps=1,
        **arguments,
    )
    return trained, rows.rows


@pytest.mark.parametrize("where", ["of_module", "of_callback"])
@pytest.mark.parametrize(
    ("at", "arguments"),
    [(8, {}), (11, {}), (11, {"val_check_interval": 3}), (16, {}), (8, {"limit_val_batches": 0})],
)
def test_an_error_behind_a_batch(where, at, arguments, tmp_path):
    whole, of_whole = run(tmp_path / "whole", **arguments)
    with pytest.raises(BrokenError):
        run(tmp_path / "broken", **{where: at}, **arguments)
    path = tmp_path / "broken" / "run-training-checkpoint.safetensors"
    resumed, of_resumed = run(tmp_path / "resumed", resume_from=path, **arguments)
    assert of_resumed
    assert same(of_whole[len(of_whole) - len(of_resumed) :], of_resumed)
    for name in ("weights", "optimizers", "schedules", "steps", "epochs", "shown", "random"):
        assert same(whole.outcome[name], resumed.outcome[name]), name
