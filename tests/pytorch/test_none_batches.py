"""A collate_fn that drops all of a batch: a module trains as by Lightning alone, and callbacks hear no None."""

import types
import warnings

import pytest
import pytorch_lightning as pl
import torch
from contract.keeper import Keeper
from mlpug_lightning.module import check_alone
from pytorch.native_runs import QUIET

import mlpug.pytorch as mlp
from mlpug.errors import DatasetError

KEPT = [0, 4, 5]  # of seven; Lightning steps schedules at the others too
BATCHES = [torch.linspace(-1, 1, 8).reshape(4, 2) * (1 + number) if number in KEPT else None for number in range(7)]
NUM_EPOCHS = 2


class Module(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.ends = torch.nn.Linear(2, 1), []

    def training_step(self, batch, batch_idx):
        loss = self.linear(batch).square().mean()
        self.log("seen", loss, on_epoch=True, on_step=True, batch_size=len(batch))
        return loss

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.ends.append((batch_idx, batch is None))

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Told(mlp.callbacks.Callback):
    def __init__(self):
        self.told = []

    def on_batch_training_completed(self, batch, logs):
        current = logs["current"]
        self.told.append((len(batch), current["batch_step"], current["global_iter"], logs.at("training.batch.loss")))


def loader(batches=BATCHES):
    return torch.utils.data.DataLoader(batches, batch_size=None)


def train(data, keeper=(), resume_from=None, **options):
    module, told = Module(), Told()
    trainer = mlp.trainers.DefaultTrainer.from_lightning(module, accelerator="cpu", **options)
    manager = mlp.trainers.TrainingManager(trainer, data, num_epochs=NUM_EPOCHS, callbacks=[told, *keeper])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        manager.start_training(resume_from=resume_from)
    num_warnings = len([each for each in caught if "None" in str(each.message)])
    assert num_warnings == 1 or (resume_from is not None and num_warnings == 0)
    return module, told.told


def assert_same(module, expected):
    for name, weight in expected.state_dict().items():
        assert torch.equal(module.state_dict()[name], weight)


@pytest.mark.parametrize("options", [{}, {"batch_chunk_size": 4}], ids=["", "chunks"])
def test_it_trains_as_lightning_alone(options):
    expected = Module()
    trainer = pl.Trainer(max_epochs=NUM_EPOCHS, **QUIET)
    with pytest.warns(UserWarning, match="yielded None"):
        trainer.fit(expected, loader())
    module, told = train(loader(), **options)
    assert_same(module, expected)
    assert module.ends == expected.ends
    assert [event[:3] for event in told] == [(4, place, place + before) for before in (0, 7) for place in KEPT]
    assert all(loss == loss for *_, loss in told)


def test_groups_are_made_of_the_others():
    module, told = train(loader(), gradient_accumulation_steps=2)
    joined = [BATCHES[0], None, torch.cat([BATCHES[4], BATCHES[5]]), None]
    expected, _ = train(loader(joined), batch_chunk_size=4)
    assert_same(module, expected)
    assert [event[:3] for event in told] == [(4, 0, 0), (8, 2, 2), (4, 0, 4), (8, 2, 6)]


@pytest.mark.parametrize("options", [{}, {"gradient_accumulation_steps": 2}], ids=["", "groups"])
def test_a_run_goes_on_at_its_place(tmp_path, options):
    keeper = Keeper(tmp_path)
    whole, told = train(loader(), [keeper], **options)
    for path, _ in keeper.saved[:-1]:
        resumed, rest = train(loader(), resume_from=path, **options)
        assert_same(resumed, whole)
        assert rest == told[len(told) - len(rest) :]


def test_beside_other_processes_it_is_refused():
    check_alone(types.SimpleNamespace(world_size=1, global_rank=0))
    with pytest.raises(DatasetError, match=r"None for a batch in process 1 of 2.*collate_fn"):
        check_alone(types.SimpleNamespace(world_size=2, global_rank=1))
