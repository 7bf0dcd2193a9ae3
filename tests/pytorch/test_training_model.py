"""What set_training_model takes on PyTorch, and what it says of a LightningModule."""

import pytest
import pytorch_lightning as pl
import torch

import mlpug.pytorch as mlp
from mlpug.errors import ConfigurationError, DatasetError, MlpugWarning


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


class Loss(torch.nn.Module):
    """Of a head on a backbone."""

    def __init__(self, device=None):
        super().__init__()
        self.backbone = torch.nn.Linear(2, 2, device=device)
        self.head = torch.nn.Linear(2, 1)

    def forward(self, batch_data, evaluate_settings=None, inference_mode=False):
        return self.head(self.backbone(batch_data)).square().mean()


def train(model, *optimized, callbacks=()):
    parameters = [parameter for part in optimized for parameter in part.parameters()]
    trainer = mlp.trainers.DefaultTrainer(torch.optim.SGD(parameters, lr=0.1), model, accelerator="cpu")
    trainer.set_training_model(model)
    mlp.trainers.TrainingManager(trainer, [torch.ones(4, 2)] * 2, callbacks=callbacks).start_training()


def test_parameters_that_no_optimizer_has_are_told_by_name_once():
    model = Loss()
    with pytest.warns(MlpugWarning, match=r"^No optimizer has backbone.weight, backbone.bias of Loss, so") as told:
        train(model, model.head)
    assert len(told) == 1


class Frozen(pl.Callback):
    def setup(self, trainer, pl_module, stage):
        pl_module.training_model.backbone.requires_grad_(False)


@pytest.mark.parametrize("by_callback", [False, True])
def test_what_is_frozen_needs_no_optimizer(by_callback):
    model = Loss()
    if not by_callback:
        model.backbone.requires_grad_(False)
    train(model, model.head, callbacks=[Frozen()] if by_callback else [])
    train(model, model.backbone, model.head)


def test_two_optimizers_may_share_a_model():
    model = Loss()
    optimizers = {name: torch.optim.SGD(getattr(model, name).parameters(), lr=0.1) for name in ("head", "backbone")}
    before = model.backbone.weight.detach().clone()
    trainer = mlp.trainers.DefaultTrainer(optimizers, model, accelerator="cpu")
    trainer.set_training_model(model)
    mlp.trainers.TrainingManager(trainer, [torch.ones(4, 2)]).start_training()
    assert not torch.equal(model.backbone.weight, before)


def manager_of(ported, data):
    if ported:
        trainer = mlp.trainers.DefaultTrainer.from_lightning(Of2(), accelerator="cpu")
        return mlp.trainers.TrainingManager(trainer, torch.utils.data.DataLoader(list(data)))
    model = Loss()
    trainer = mlp.trainers.DefaultTrainer(torch.optim.SGD(model.parameters(), 0.1), model, accelerator="cpu")
    trainer.set_training_model(model)
    return mlp.trainers.TrainingManager(trainer, [data])


@pytest.mark.parametrize("data", [torch.ones(4, 2).double(), torch.ones(4, 2).long(), torch.ones(4, 2, device="meta")])
@pytest.mark.parametrize("ported", [False, True])
def test_data_of_another_type_than_the_model_is_told_in_a_sentence(data, ported):
    manager = manager_of(ported, data)
    with pytest.raises(DatasetError, match=r"^The model can't compute the first batch: .* Give it data of the type"):
        manager.start_training()


class Of2(Project):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(2, 1)


def test_a_model_without_numbers_is_refused_by_the_names_of_its_weights():
    model = Loss(device="meta")
    with pytest.raises(ConfigurationError, match=r"^backbone.weight, backbone.bias of Loss are on torch's meta device"):
        train(model, model)
    model.backbone.to_empty(device="cpu")
    torch.nn.init.ones_(model.backbone.weight)
    torch.nn.init.zeros_(model.backbone.bias)
    train(model, model)
    assert not torch.equal(model.backbone.weight, torch.ones(2, 2))
