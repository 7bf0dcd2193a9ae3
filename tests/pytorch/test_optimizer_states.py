"""The state of an optimizer goes on whatever its nesting and its keys: a resumed run equals one that never stopped."""

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from contract.keeper import Keeper
from torch.utils.data import DataLoader

import mlpug.pytorch as mlp
from mlpug import checkpoints
from mlpug.errors import StateError

NUM_EPOCHS, BATCHES_PER_EPOCH = 2, 5


class Descent(torch.optim.Optimizer):
    """Gradient descent, at a rate that a kind of it takes from what it keeps."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.05})

    @torch.no_grad()
    def step(self, closure=None):
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.add_(parameter.grad, alpha=-group["lr"] / (1 + 0.1 * self.next(parameter)))
        return loss


class UnderAName(Descent):
    """As MADGRAD does."""

    def next(self, parameter):
        self.state["k"] = self.state.get("k", torch.tensor([0])) + 1
        return self.state["k"].item()


class UnderAnyKey(Descent):
    def next(self, parameter):
        counts = self.state.setdefault(("counts", 1), {"past": [0, 0], 3: [torch.tensor(0.0)]})
        counts["past"] = [counts["past"][-1], counts["past"][-1] + 1]
        counts[3][0] += 2
        return sum(counts["past"]) + counts[3][0].item()


class NestedForAParameter(Descent):
    def next(self, parameter):
        state = self.state[parameter]
        state.setdefault(0, {"past": [torch.tensor(0.0)], "array": np.zeros(2)})
        state[0]["past"] = [*state[0]["past"][-2:], state[0]["past"][-1] + 1]
        state[0]["array"] += 1
        assert isinstance(state[0]["array"], np.ndarray)
        return sum(each.item() for each in state[0]["past"]) + state[0]["array"].sum()


class ArrayForAParameter(Descent):
    def next(self, parameter):
        state = self.state[parameter]
        state["array"] = state.get("array", np.zeros(2)) + 1
        assert isinstance(state["array"], np.ndarray)
        return state["array"].sum()


class BesideTheStates(Descent):
    """As Lookahead and others that wrap an optimizer do."""

    def __init__(self, params):
        super().__init__(params)
        self.slow = {"steps": 0, "mean": torch.zeros(2)}

    def next(self, parameter):
        self.slow["steps"] += 1
        self.slow["mean"] += 0.5
        return self.slow["steps"] + self.slow["mean"].sum().item()

    def state_dict(self):
        return {**super().state_dict(), "slow": self.slow}

    def load_state_dict(self, state_dict):
        self.slow = state_dict["slow"]
        super().load_state_dict({name: value for name, value in state_dict.items() if name != "slow"})


class Module(pl.LightningModule):
    def __init__(self, optimizer):
        super().__init__()
        self.net, self.optimizer = torch.nn.Linear(6, 1), optimizer

    def forward(self, batch_data, evaluate_settings=None, inference_mode=None):
        return (self.net(batch_data) ** 2).mean()

    def training_step(self, batch, batch_idx):
        return self(batch)

    def configure_optimizers(self):
        return self.optimizer(self.parameters())


def data():
    return torch.randn(BATCHES_PER_EPOCH * 8, 6, generator=torch.Generator().manual_seed(3))


def train_model(optimizer, callbacks, resume_from=None):
    module = Module(optimizer)
    trainer = mlp.trainers.DefaultTrainer(optimizer(module.parameters()), module, accelerator="cpu")
    manager = mlp.trainers.TrainingManager(
        trainer, DataLoader(data(), batch_size=8), num_epochs=NUM_EPOCHS, callbacks=callbacks
    )
    trainer.set_training_model(module)
    manager.start_training(resume_from=resume_from)
    return module.net.weight


def train_ported(optimizer, callbacks, resume_from=None):
    module = Module(optimizer)
    trainer = mlp.trainers.DefaultTrainer.from_lightning(module, accelerator="cpu")
    manager = mlp.trainers.TrainingManager(
        trainer, DataLoader(data(), batch_size=8), num_epochs=NUM_EPOCHS, callbacks=callbacks
    )
    manager.start_training(resume_from=resume_from)
    return module.net.weight


OPTIMIZERS = [UnderAName, UnderAnyKey, NestedForAParameter, ArrayForAParameter, BesideTheStates]


@pytest.mark.parametrize("train", [train_model, train_ported])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_goes_on(tmp_path, train, optimizer):
    torch.manual_seed(0)
    keeper = Keeper(tmp_path)
    expected = train(optimizer, [keeper])
    for number in (1, 4, 7):
        torch.manual_seed(9)
        weights = train(optimizer, [], next(path for path, batches in keeper.saved if batches == number))
        assert torch.equal(weights, expected)


@pytest.mark.parametrize("train", [train_model, train_ported])
def test_a_file_of_the_first_version_goes_on(tmp_path, train):
    torch.manual_seed(0)
    keeper = Keeper(tmp_path)
    expected = train(torch.optim.Adam, [keeper])
    path = next(path for path, batches in keeper.saved if batches == 4)
    state = checkpoints.load(path)
    del state["optimizers"]["optimizer"]["own"]
    checkpoints.save(path, state)
    torch.manual_seed(9)
    assert torch.equal(train(torch.optim.Adam, [], path), expected)


def test_what_is_no_data_is_refused_with_its_place(tmp_path):
    class HoldsAFunction(Descent):
        def next(self, parameter):
            self.state["rate"] = {"of": print}
            return 0

    with pytest.raises(StateError, match=r"HoldsAFunction/state/rate/of"):
        train_model(HoldsAFunction, [Keeper(tmp_path)])
