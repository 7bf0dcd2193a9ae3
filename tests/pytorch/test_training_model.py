"""What set_training_model takes on PyTorch, and what it says of a LightningModule."""

import pytest
import pytorch_lightning as pl
import torch

import mlpug.pytorch as mlp
from mlpug.errors import ConfigurationError


class Project(pl.LightningModule):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(1, 1)

    def training_step(self, batch, batch_idx):
        return self.linear(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Predicting(Project):
    def forward(self, x):
        return self.linear(x)


class Both(Project):
    def forward(self, batch_data, evaluate_settings, inference_mode):
        return self.linear(batch_data).mean()


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(1, 1)

    def forward(self, batch):
        return self.linear(batch).mean()


class Empty(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(1, 1)


class CalledOtherwise(Net):
    def __call__(self, batch_data, evaluate_settings=None, inference_mode=False):
        return super().__call__(batch_data)


def hooked():
    def only_the_batch(module, args, kwargs):
        return args, {}

    net = Net()
    net.register_forward_pre_hook(only_the_batch, with_kwargs=True)
    return net


def trainer_of(model):
    return mlp.trainers.DefaultTrainer(torch.optim.SGD(model.parameters(), lr=0.1), model, accelerator="cpu")


@pytest.mark.parametrize("kind", [Project, Predicting])
def test_a_lightning_module_is_refused_with_the_way_to_train_it(kind):
    module = kind()
    with pytest.raises(ConfigurationError) as caught:
        trainer_of(module).set_training_model(module)
    message = str(caught.value)
    assert f"{kind.__name__} is a LightningModule: to train it by its own training_step, make the trainer by" in message
    assert "DefaultTrainer.from_lightning(module), and leave out set_training_model, or write forward(self," in message
    assert len(message) < 3 * 160


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what torch.compile imports
@pytest.mark.parametrize("make", [Net, Empty, lambda: torch.compile(Net())], ids=["a batch", "none", "compiled"])
def test_a_module_that_cant_be_called_so_is_refused(make):
    model = make()
    with pytest.raises(ConfigurationError, match=r"Write forward\(self, batch_data") as caught:
        trainer_of(model).set_training_model(model)
    assert "LightningModule" not in str(caught.value)


@pytest.mark.parametrize("make", [Both, CalledOtherwise, hooked], ids=["of lightning", "its own call", "by a hook"])
def test_what_can_be_called_so_trains(make):
    torch.manual_seed(0)
    model = make()
    weight = model.linear.weight.item()
    trainer = trainer_of(model)
    trainer.set_training_model(model)
    mlp.trainers.TrainingManager(trainer, [torch.full((2, 1), 2.0)]).start_training()
    assert model.linear.weight.item() == pytest.approx(weight - 0.1 * 2.0)
