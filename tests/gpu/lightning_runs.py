"""Runs on the device, by mlpug, by Lightning alone and by hand, and what they give.

The layers have deterministic kernels on a GPU, so that two runs can be held against each other exactly.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from gpu.accelerator import ACCELERATOR
from pytorch.native_projects import Data, WithSchedules
from pytorch.native_runs import Trained, begin
from pytorch.native_runs import native as fit
from torch.nn import functional
from torch.optim import lr_scheduler as schedules

import mlpug.pytorch as mlp

ON_DEVICE = {"accelerator": ACCELERATOR, "devices": 1}
DEVICE = torch.device("cuda:0" if ACCELERATOR == "gpu" else "cpu")
NUM_FEATURES, NUM_CLASSES, BATCH_SIZE, NUM_BATCHES, NUM_EPOCHS = 20, 5, 48, 12, 3


def make_batches(dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(NUM_BATCHES, BATCH_SIZE, NUM_FEATURES, generator=generator, dtype=dtype)
    return [(each, each[:, :NUM_CLASSES].argmax(dim=1)) for each in x]


def on_device(batches):
    return [tuple(part.to(DEVICE) for part in batch) for batch in batches]


def make_net(dropout=0.3):
    torch.manual_seed(4)
    return torch.nn.Sequential(
        torch.nn.Linear(NUM_FEATURES, 128),
        torch.nn.ReLU(),
        torch.nn.Dropout(dropout),
        torch.nn.Linear(128, NUM_CLASSES),
    )


def random_state():
    """Of the processor and of the GPU."""
    return torch.cat([torch.get_rng_state(), *([torch.cuda.get_rng_state()] if ACCELERATOR == "gpu" else [])])


class TrainModel(torch.nn.Module):
    """Batches are (x, y), or (x, y, scale of the loss)."""

    def __init__(self, net):
        super().__init__()
        self.net, self.losses, self.sizes = net, [], []
        self.computed_on, self.computed_in = set(), set()

    def forward(self, batch_data, evaluate_settings, inference_mode=None):
        x, y, *scale = batch_data
        logits = self.net(x)
        self.computed_on.add(logits.device)
        self.computed_in.add(logits.dtype)
        loss = functional.cross_entropy(logits, y)
        self.losses.append(loss.detach())
        self.sizes.append(len(y))
        return loss * scale[0] if scale else loss, len(y), logits


@dataclass
class Run:
    losses: list[float]
    weights: dict[str, torch.Tensor]
    random: torch.Tensor  # the state of the random numbers at the end
    model: Any = None
    trainer: Any = None
    manager: Any = None
    optimizer: Any = None


def train(batches, callbacks=(), resume_from=None, net=None, seed=7, num_epochs=NUM_EPOCHS, **options):
    net = make_net() if net is None else net
    model, optimizer = TrainModel(net), torch.optim.Adam(net.parameters(), lr=0.01)
    trainer = mlp.trainers.DefaultTrainer(optimizer, net, **ON_DEVICE, **options)
    manager = mlp.trainers.TrainingManager(trainer, batches, num_epochs=num_epochs, callbacks=callbacks)
    trainer.set_training_model(model)
    begin(seed)
    manager.start_training(resume_from)
    return Run(*result(net, model.losses), model, trainer, manager, optimizer)


def result(net, losses):
    weights = {name: tensor.cpu() for name, tensor in net.state_dict().items()}
    return [loss.item() for loss in losses], weights, random_state()


def train_by_hand(batches, net):
    net.to(DEVICE)
    optimizer, losses = torch.optim.Adam(net.parameters(), lr=0.01), []
    begin(seed=7)
    for x, y in on_device(batches) * NUM_EPOCHS:
        optimizer.zero_grad()
        loss = functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return Run(*result(net, losses))


def assert_same(run, expected):
    assert run.losses == expected.losses[len(expected.losses) - len(run.losses) :]
    assert {name for name in expected.weights if not torch.equal(run.weights[name], expected.weights[name])} == set()
    assert torch.equal(run.random, expected.random)


def by_step(optimizer):
    return [optimizer], [{"scheduler": schedules.ExponentialLR(optimizer, 0.98), "interval": "step"}]


Project = partial(WithSchedules, by_step)  # BatchNorm, dropout, SGD with momentum, validation
CLIPPED = {**ON_DEVICE, "gradient_clip_val": 0.5}


def native(callbacks=()):
    trained = fit(Project, Data, callbacks=callbacks, **CLIPPED)
    return replace(trained, random=random_state())


def ported(callbacks=(), resume_from=None):
    begin(seed=1)
    module, data = Project(), Data()
    trainer = mlp.trainers.DefaultTrainer.from_lightning(module, **CLIPPED)
    manager = mlp.trainers.TrainingManager(trainer, data, num_epochs=3, callbacks=callbacks)
    if resume_from is not None:
        torch.manual_seed(1000)  # random numbers aren't what they were
    manager.start_training(resume_from)
    return Trained(module, trainer.native.trainer, random_state(), manager)
