"""The state of a Lightning callback that isn't there any more is dropped by name, in both ways to train."""

import warnings

import pytest
import pytorch_lightning as pl
import torch

import mlpug.pytorch as mlp
from mlpug.errors import MlpugWarning


class Project(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(2, 1)

    def forward(self, batch, evaluate_settings=None, inference_mode=None):
        return self.net(batch).square().mean()

    def training_step(self, batch, batch_idx):
        loss = self(batch)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer_of(kind):
    module = Project()
    if kind == "lightning_module":
        return mlp.trainers.DefaultTrainer.from_lightning(module, accelerator="cpu")
    optimizer = module.configure_optimizers()
    trainer = mlp.trainers.DefaultTrainer(optimizers=optimizer, model_components=module.net, accelerator="cpu")
    trainer.set_training_model(module)
    return trainer


def train(kind, folder, num_epochs, *callbacks):
    data = torch.utils.data.DataLoader(torch.ones(8, 2), batch_size=4)
    saves = mlp.callbacks.CheckpointManager(folder, "run", metric_to_monitor=None)
    manager = mlp.trainers.TrainingManager(trainer_of(kind), data, num_epochs=num_epochs, callbacks=[*callbacks, saves])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        manager.start_training("auto")
    return [str(warning.message) for warning in caught if warning.category is MlpugWarning]


class Counts(pl.Callback):
    def __init__(self):
        self.count = 0

    def on_train_batch_end(self, *_):
        self.count += 1

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state_dict):
        self.count = state_dict["count"]


class Renamed(Counts):
    """Of another name, and so of another key."""


class Stateless(pl.Callback):
    """Has nothing to lose."""


@pytest.mark.parametrize("kind", ["training_model", "lightning_module"])
def test_it_is_named(tmp_path, kind):
    assert train(kind, tmp_path, 1, Counts(), Stateless()) == []
    counts = Counts()
    assert train(kind, tmp_path, 2, counts) == []
    assert counts.count == 4
    renamed = Renamed()
    (told,) = train(kind, tmp_path, 3, renamed)
    assert "state of the callback 'Counts', which isn't among the callbacks" in told
    assert "'Renamed', which this run has" in told
    assert renamed.count == 2
