"""A LightningModule's run that goes on from any rest equals the one that was never stopped."""

from functools import partial

import pytest
import torch
from pytorch.native_projects import (
    Adversarial,
    Classifier,
    Data,
    Late,
    Measuring,
    OwnSchedule,
    Quasi,
    Sometimes,
    Stream,
    WithSchedules,
    loader,
    val_loader,
)
from pytorch.native_runs import ported, same
from torch.optim import lr_scheduler as schedules

import mlpug.pytorch as mlp
from mlpug import checkpoints


class Record(mlp.callbacks.Callback):
    """What the logs say at each batch and epoch; with a folder, the state of each rest."""

    def __init__(self, folder=None):
        self.folder, self.rows, self.rests = folder, [], []

    def on_batch_training_completed(self, batch, logs):
        self.rows.append(("batch", without_times(logs.snapshot())))

    def on_epoch_completed(self, logs):
        self.rows.append(("epoch", without_times(logs.snapshot())))

    def on_rest(self, logs, is_last):
        if self.folder is not None and not is_last:
            self.rests.append((self.folder / f"{len(self.rests)}.safetensors", len(self.rows)))
            checkpoints.save(self.rests[-1][0], self.manager.get_state())


def without_times(logs):
    return {
        name: without_times(value) if isinstance(value, dict) else value
        for name, value in logs.items()
        if name not in ("training_params", "final_epoch", "final_batch_step")
    }


def step_and_epoch(optimizer):
    return [optimizer], [
        {"scheduler": schedules.OneCycleLR(optimizer, 0.1, total_steps=100), "interval": "step", "frequency": 2},
        {"scheduler": schedules.StepLR(optimizer, 1, 0.8), "interval": "epoch"},
    ]


def plateau(optimizer):
    schedule = schedules.ReduceLROnPlateau(optimizer, patience=0, factor=0.5, threshold=0.2)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss"}}


class Counting(Classifier):
    """Keeps something in checkpoints that isn't a weight."""

    def __init__(self):
        super().__init__()
        self.count = 0
        self.loaded = []

    def training_step(self, batch, batch_idx):
        self.count += 1
        self.seen.append(("count", self.count, 0.0))
        return super().training_step(batch, batch_idx) * (1 + self.count / 10)

    def on_save_checkpoint(self, checkpoint):
        checkpoint["count"] = (self.count, {"state": torch.tensor([self.count])})

    def on_load_checkpoint(self, checkpoint):
        self.count, _ = checkpoint["count"]
        self.loaded.append((checkpoint["epoch"], checkpoint["global_step"]))


class Remembering(Data):
    """A DataModule with a state, which its batches depend on."""

    def __init__(self):
        super().__init__()
        self.offset = 0.0

    def on_after_batch_transfer(self, batch, dataloader_idx):
        if self.trainer.training:
            self.offset += 0.1
        return batch[0] + self.offset, batch[1]

    def state_dict(self):
        return {"offset": self.offset}

    def load_state_dict(self, state_dict):
        self.offset = state_dict["offset"]


class OfTwo(Classifier):
    def training_step(self, batch, batch_idx):
        return super().training_step(batch[0], batch_idx) + self.loss(batch[1])


def stream():
    return torch.utils.data.DataLoader(Stream(), batch_size=5)


SHARES = pytest.mark.filterwarnings("ignore:The training dataset draws from the global random numbers")
WITH_VAL = {"val_dataloaders": val_loader}
RUNS = {
    "metrics": (Measuring, Data, {}),
    "within epochs": (Measuring, Data, {"val_check_interval": 3}),
    "over epochs": (Measuring, Data, {"val_check_interval": 5, "check_val_every_n_epoch": None}),
    "second epochs": (Measuring, Data, {"check_val_every_n_epoch": 2}),
    "schedules": (partial(WithSchedules, step_and_epoch), Data, {}),
    "plateau": (partial(WithSchedules, plateau), Data, {}),
    "own schedule": (OwnSchedule, Data, {}),
    "adversarial": (Adversarial, Data, {}),
    "adversarial within epochs": (Adversarial, Data, {"val_check_interval": 3}),
    "LBFGS": (Quasi, Data, {}),
    "no loss now and then": (Sometimes, Data, {}),
    "kept by the module": (Counting, Data, {}),
    "kept by the data": (Classifier, Remembering, {}),
    "stream": (Measuring, stream, WITH_VAL),
    "stream within epochs": (partial(WithSchedules, step_and_epoch), stream, {"val_check_interval": 2, **WITH_VAL}),
    "two workers": (Classifier, partial(loader, num_workers=2), WITH_VAL),
    "several loaders": (OfTwo, lambda: [loader(), loader(batch_size=8)], WITH_VAL),
    "several loaders of several lengths": (OfTwo, lambda: [loader(), loader(batch_size=16)], WITH_VAL),
    "with a seed": (Classifier, loader, {"of_manager": {"seed": 3}, **WITH_VAL}),
    "several loaders, with a seed": (
        OfTwo,
        lambda: [loader(), loader(batch_size=16)],
        {"of_manager": {"seed": 3}, **WITH_VAL},
    ),
    "in parts": (Late, Data, {"batch_chunk_size": 3, "gradient_accumulation_steps": 2}),
}


def check_resumed(whole, record, resumed, of_resumed, num_rows):
    seen = len(resumed.module.seen)
    assert whole.module.seen[len(whole.module.seen) - seen :] == resumed.module.seen
    assert same(record.rows[num_rows:], of_resumed.rows)
    if num_rows == len(record.rows):  # there was nothing left to do, and no optimizer for it
        assert same(whole.outcome["weights"], resumed.outcome["weights"])
        return
    for name, value in whole.outcome.items():
        if name != "seen":
            assert same(value, resumed.outcome[name]), name


@SHARES
@pytest.mark.filterwarnings("ignore:`training_step` returned `None`", "ignore:Trying to infer the `batch_size`")
@pytest.mark.parametrize("name", RUNS)
def test_resumed_at_every_rest(name, tmp_path):
    make, data, arguments = RUNS[name]
    record = Record(tmp_path)
    whole = ported(make, data, callbacks=[record], **arguments)
    assert len(record.rests) == len(record.rows) > 3
    for path, num_rows in record.rests:
        again = Record()
        resumed = ported(make, data, callbacks=[again], seed=1, resume_from=path, **arguments)
        check_resumed(whole, record, resumed, again, num_rows)
