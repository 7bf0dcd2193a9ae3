"""As test_start_hooks.py, where a training model is trained: a resumed run loses nothing to a start hook."""

import pytest
import pytorch_lightning as pl
import torch
from contract.keeper import Keeper
from torch.utils.data import DataLoader

import mlpug.pytorch as mlp

SAMPLES = torch.randn(32, 3, generator=torch.Generator().manual_seed(1))


class TrainModel(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(3, 1)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, batch_data, evaluate_settings, inference_mode=None):
        self.scale += 0.1
        return self.net(batch_data).square().mean() * self.scale


def reset(model, optimizer):
    """All that a run goes on with, in place: what was given back before must not have been the file's own memory."""
    with torch.no_grad():
        model.net.weight.fill_(0.1)
        model.scale.fill_(1.0)
        for state in optimizer.state.values():
            for value in state.values():
                value.zero_()
    for group in optimizer.param_groups:
        group["lr"] = 0.07
    model.net.bias.requires_grad_(True)


class Resets(mlp.callbacks.Callback):
    """mlpug's own."""

    def __init__(self, given):
        self.given, self.count = given, 0

    def on_training_start(self, logs):
        self.count = 0
        reset(*self.given)

    def on_batch_training_completed(self, batch, logs):
        self.count += 1

    def get_state(self):
        return self.count

    def set_state(self, state):
        self.count = state


class NativeResets(pl.Callback):
    """Lightning's."""

    def __init__(self, given):
        self.given, self.count = given, 0

    def on_train_start(self, trainer, pl_module):
        self.count = 0
        reset(*self.given)

    def on_train_batch_end(self, *_):
        self.count += 1

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state_dict):
        self.count = state_dict["count"]


def train(kind, callbacks, resume_from=None):
    model = TrainModel()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    resets = kind((model, optimizer))
    trainer = mlp.trainers.DefaultTrainer(optimizer, model.net, accelerator="cpu")
    manager = mlp.trainers.TrainingManager(
        trainer, DataLoader(SAMPLES, batch_size=8), num_epochs=2, callbacks=[*callbacks, resets]
    )
    trainer.set_training_model(model)
    manager.start_training(resume_from=resume_from)
    return [*model.state_dict().values(), *(value for state in optimizer.state.values() for value in state.values())], (
        resets.count,
        optimizer.param_groups[0]["lr"],
    )


@pytest.mark.parametrize("kind", [Resets, NativeResets])
def test_a_start_hook_undoes_nothing(tmp_path, kind):
    torch.manual_seed(0)
    keeper = Keeper(tmp_path)
    tensors, numbers = train(kind, [keeper])
    for batches in (3, 4, 8):  # within an epoch, at the end of one, and when nothing is left to do
        torch.manual_seed(9)
        resumed, numbers_here = train(kind, [], [path for path, done in keeper.saved if done == batches][-1])
        assert numbers_here == numbers
        assert len(resumed) == len(tensors)
        assert all(map(torch.equal, resumed, tensors))
