"""Loaders that a module or a DataModule brings itself are compared with those of the checkpoint, as those given are."""

import warnings

import pytest
import pytorch_lightning as pl
import torch
from contract.keeper import Keeper

import mlpug.pytorch as mlp
from mlpug import checkpoints
from mlpug.errors import CheckpointMismatchError, MlpugWarning

BATCH_SIZE = 4


class Module(pl.LightningModule):
    def __init__(self, given):
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.given = torch.nn.Linear(2, 1), given

    def training_step(self, batch, batch_idx):
        batches = batch.values() if isinstance(batch, dict) else [batch]
        return sum(self.linear(each).square().mean() for each in batches)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class WithLoader(Module):
    def train_dataloader(self):
        return self.given


class Data(pl.LightningDataModule):
    def __init__(self, given):
        super().__init__()
        self.given = given

    def train_dataloader(self):
        return self.given


def loader(num_samples, shuffle=True):
    data = torch.ones(num_samples, 2)
    return torch.utils.data.DataLoader(data, batch_size=BATCH_SIZE, shuffle=shuffle)


WAYS = {
    "module": lambda given: (WithLoader(given),) * 2,
    "DataModule": lambda given: (Module(given), Data(given)),
    "several": lambda given: (Module(given), {"a": given, "b": loader(12)}),
    "given": lambda given: (Module(given), given),
}


def train(way, given, keeper=(), path=None):
    module, data = WAYS[way](given)
    trainer = mlp.trainers.DefaultTrainer.from_lightning(module, accelerator="cpu")
    manager = mlp.trainers.TrainingManager(trainer, data, num_epochs=2, callbacks=keeper)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        manager.start_training(resume_from=path)
    return [str(each.message) for each in caught if issubclass(each.category, MlpugWarning)]


@pytest.mark.parametrize("way", WAYS)
def test_other_data_is_a_warning_between_epochs_and_an_error_within(tmp_path, way):
    keeper = Keeper(tmp_path)
    train(way, loader(12), [keeper])
    within, between = keeper.saved[1][0], keeper.saved[3][0]
    for path in (within, between):
        assert train(way, loader(12), path=path) == []
    for other, difference in ((loader(11), "length of its dataset was 12, and is 11"), (loader(12, False), "Sampler")):
        (message,) = train(way, other, path=between)
        assert difference in message
        assert "Training goes on with the data of now" in message
        with pytest.raises(CheckpointMismatchError, match=difference):
            train(way, other, path=within)


def test_a_checkpoint_of_an_earlier_version_says_nothing_of_them(tmp_path):
    keeper = Keeper(tmp_path)
    train("module", loader(12), [keeper])
    state = checkpoints.load(keeper.saved[3][0])
    for of_process in state["processes"]:
        del of_process["data"]["fingerprints"]
    checkpoints.save(tmp_path / "old", state)
    assert train("module", loader(11), path=tmp_path / "old") == []
