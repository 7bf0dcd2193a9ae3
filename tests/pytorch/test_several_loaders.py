"""A DefaultTrainer refuses what only Lightning trains on: several loaders, and optimizers that need a closure."""

import re

import pytest
import pytorch_lightning as pl
import torch
from pytorch.native_runs import QUIET
from pytorch_lightning.utilities import CombinedLoader

import mlpug.pytorch as mlp
from mlpug.errors import ConfigurationError


def loader(*values):
    return torch.utils.data.DataLoader([torch.full((2, 2), value) for value in values], batch_size=None)


SEVERAL = {
    "CombinedLoader": CombinedLoader({"a": loader(1.0, 2.0), "b": loader(3.0)}, "max_size_cycle"),
    "dict": {"a": loader(1.0, 2.0), "b": loader(3.0)},
    "list of loaders": [loader(1.0), loader(2.0)],
    "tuple of loaders": (loader(1.0), loader(2.0)),
    "list of loaders in a dict": [{"a": loader(1.0)}, loader(2.0)],
}


class Module(pl.LightningModule):
    """With torch's only optimizer that computes a loss several times."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.linear = torch.nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        batch = batch["a"] + batch["b"] if isinstance(batch, dict) else batch
        return (self.linear(batch) - 1).square().mean()

    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)


@pytest.mark.parametrize("name", SEVERAL)
def test_several_loaders_are_refused_when_the_manager_is_made(name):
    linear = torch.nn.Linear(2, 1)
    trainer = mlp.trainers.DefaultTrainer(torch.optim.SGD(linear.parameters()), linear, accelerator="cpu")
    with pytest.raises(
        ConfigurationError, match=f"not on a {name.partition(' in ')[0]}. Give an object whose __iter__.*from_lightning"
    ):
        mlp.trainers.TrainingManager(trainer, SEVERAL[name])


class Wanting(torch.optim.SGD):
    def step(self, loss_of):
        return super().step(loss_of)


@pytest.mark.parametrize(("kind", "argument"), [(torch.optim.LBFGS, "closure"), (Wanting, "loss_of")])
def test_an_optimizer_that_needs_a_closure_is_refused_when_the_trainer_is_made(kind, argument):
    linear = torch.nn.Linear(2, 1)
    message = re.escape(f"'optimizer' is a {kind.__name__}, whose step needs '{argument}'") + ".*from_lightning"
    with pytest.raises(ConfigurationError, match=message):
        mlp.trainers.DefaultTrainer(kind(linear.parameters(), lr=0.1), linear, accelerator="cpu")


@pytest.mark.parametrize("name", ["one", "CombinedLoader", "dict"])
def test_from_lightning_trains_both_as_lightning_does(name):
    data = loader(1.0, 2.0) if name == "one" else SEVERAL[name]
    expected, module = Module(), Module()
    pl.Trainer(max_epochs=2, **QUIET).fit(expected, data)
    trainer = mlp.trainers.DefaultTrainer.from_lightning(module, accelerator="cpu")
    mlp.trainers.TrainingManager(trainer, data, num_epochs=2).start_training()
    for key, weight in expected.state_dict().items():
        assert torch.equal(module.state_dict()[key], weight)
        assert not torch.equal(Module().state_dict()[key], weight)
