"""A validation that an error ended is repeated in a resumed run, and counts once."""

import pytest
import pytorch_lightning as pl
import torch
import torchmetrics
from pytorch.native_projects import Data, Measuring
from pytorch.native_runs import ported, same
from torch.optim import lr_scheduler as schedules

import mlpug.pytorch as mlp


class BrokenError(Exception):
    pass


class Counted(Measuring):
    """Much that counts validations: metrics that nobody resets, a buffer, a schedule, and a callback that waits."""

    def __init__(self, where=None, at=None):
        super().__init__()
        self.where, self.at = where, at
        self.all, self.outputs = torchmetrics.MeanMetric(), torchmetrics.CatMetric()
        self.register_buffer("validations", torch.zeros(()))

    def pass_by(self, where):
        if (where, self.trainer.global_step) == (self.where, self.at) and not self.trainer.sanity_checking:
            raise BrokenError

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        super().validation_step(batch, batch_idx, dataloader_idx)
        self.all.update(batch[0].mean())
        self.outputs.update(batch[0].sum())
        if batch_idx == 1:
            self.pass_by("step")

    def on_validation_epoch_end(self):
        self.validations += 1
        self.seen.append(("validation", float(self.validations), float(self.all.compute())))
        self.seen.append(("outputs", self.outputs.compute().tolist()))
        if self.validations % 2 == 0:
            self.outputs.reset()
        super().on_validation_epoch_end()
        self.log("still", 1.0)
        self.pass_by("end")

    def lr_scheduler_step(self, scheduler, metric):
        super().lr_scheduler_step(scheduler, metric)
        self.pass_by("schedule")

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        schedule = schedules.ReduceLROnPlateau(optimizer, patience=1, factor=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "still"}}


class Behind(pl.Callback):
    """Breaks when the others have heard of a validation."""

    def on_validation_end(self, trainer, pl_module):
        pl_module.pass_by("behind")


def run(folder, where=None, at=None, resume_from=None, **arguments):
    waits = pl.callbacks.EarlyStopping("still", patience=9)
    saves = mlp.callbacks.CheckpointManager(folder, "run", metric_to_monitor=None, create_checkpoint_every=1000)
    made = []

    def make():
        made.append(Counted(where, at))
        return made[0]

    trained = ported(make, Data, callbacks=[waits, Behind(), saves], resume_from=resume_from, **arguments)
    return trained, waits.state_dict()


@pytest.mark.filterwarnings("ignore:.*`compute` method of metric")
@pytest.mark.parametrize(
    ("where", "at", "arguments"),
    [
        ("step", 8, {}),
        ("step", 14, {"val_check_interval": 3}),
        ("end", 16, {}),
        ("end", 11, {"val_check_interval": 3}),
        ("behind", 16, {}),
        ("behind", 15, {"val_check_interval": 5, "check_val_every_n_epoch": None}),
        ("schedule", 16, {}),
    ],
)
def test_counts_once(where, at, arguments, tmp_path):
    whole, of_whole = run(tmp_path / "whole", **arguments)
    with pytest.raises(BrokenError):
        run(tmp_path / "broken", where, at, **arguments)
    path = tmp_path / "broken" / "run-training-checkpoint.safetensors"
    resumed, of_resumed = run(tmp_path / "resumed", resume_from=path, **arguments)
    assert resumed.module.seen == whole.module.seen[len(whole.module.seen) - len(resumed.module.seen) :]
    assert of_whole == of_resumed
    assert of_whole["wait_count"] > 0
    for name in ("weights", "optimizers", "schedules", "steps", "epochs", "shown", "random"):
        assert same(whole.outcome[name], resumed.outcome[name]), name
