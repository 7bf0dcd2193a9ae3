"""What a run of Lightning changes in plain attributes, and nothing keeps, is named at a save; nothing else is."""

import collections

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torchmetrics
from torch.utils.data import DataLoader, Dataset
from unkept_names import named

import mlpug.pytorch as mlp

SAMPLES = torch.randn(24, 3, generator=torch.Generator().manual_seed(1))


class Memory:
    def __init__(self):
        self.steps = collections.deque(maxlen=3)

    def sample(self):
        return torch.stack(list(self.steps)).mean()


class Counting(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0
        self.net = torch.nn.Linear(3, 1)

    def forward(self, x):
        self.calls += 1
        return self.net(x) * (1 + self.calls / 100)


class KeepsItself(Counting):
    def get_extra_state(self):
        return {"calls": self.calls}

    def set_extra_state(self, state):
        self.calls = state["calls"]


class OwnMetric(torchmetrics.Metric):
    def __init__(self):
        super().__init__()
        self.add_state("total", torch.zeros(()))
        self.scale = 1.0

    def update(self, value):
        self.total += value.detach() * self.scale
        self.scale *= 0.5

    def compute(self):
        return self.total


class Numbers(Dataset):
    """Noise that grows with what was served."""

    def __init__(self):
        self.served = 0
        self.files = [f"{number}.png" for number in range(len(SAMPLES))]

    def __len__(self):
        return len(SAMPLES)

    def __getitem__(self, index):
        self.served += 1
        return SAMPLES[index] + self.served / 100


class Native(pl.Callback):
    def __init__(self):
        self.count = self.only_written = 0

    def on_train_batch_end(self, *_):
        self.count += 1
        self.only_written += 1
        if self.count > 1000:
            raise RuntimeError


class NativeWithState(Native):
    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


class Module(pl.LightningModule):
    """What the script's own changes, and what Lightning and torch do."""

    def __init__(self, part=Counting):
        super().__init__()
        self.save_hyperparameters()
        self.part, self.plain, self.metric = part(), torch.nn.BatchNorm1d(3), OwnMetric()
        self.mean_metric = torchmetrics.MeanMetric()
        self.register_buffer("kept", torch.zeros(()))
        self.register_buffer("passing", torch.zeros(()), persistent=False)
        self.reward, self.tensor, self.array = 0.0, torch.zeros(2), np.zeros(2)
        self.memory, self.by_name = Memory(), {}
        self.outputs, self.features, self.text = [], None, "a"
        self.steady = {"rate": [0.1]}

    def training_step(self, batch, batch_idx):
        self.memory.steps.append(batch[0].clone())
        self.reward = 0.9 * self.reward + float(batch.sum())
        self.tensor += 1
        self.array[0] += 1
        self.by_name.setdefault(f"batch {batch_idx}", []).append(batch.sum())
        self.kept += 1
        self.passing += 1
        self.features = self.part(self.plain(batch))  # of a graph that is gone
        loss = self.features.square().mean() * (self.reward + self.tensor.sum() + self.array.sum())
        loss = loss + self.memory.sample() + len(self.by_name)
        self.metric(loss.detach())
        self.mean_metric(loss.detach())
        self.log("metric", self.mean_metric)
        self.log("loss", loss)
        self.outputs.append(loss.detach())
        return loss

    def on_train_epoch_end(self):
        torch.stack(self.outputs).mean()
        self.outputs.clear()

    def train_dataloader(self):
        return DataLoader(self.data if hasattr(self, "data") else Numbers(), batch_size=8)

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1)]


class WithHooks(Module):
    def on_save_checkpoint(self, checkpoint):
        checkpoint["own"] = self.reward, self.tensor, self.array, self.by_name, list(self.memory.steps)
        checkpoint["part"] = self.part.calls

    def on_load_checkpoint(self, checkpoint):
        self.reward, self.tensor, self.array, self.by_name, _ = checkpoint["own"]
        self.part.calls = checkpoint["part"]


OF_MODULE = ["array", "by_name", "memory.steps", "reward", "tensor"]


def train(module, folder, data, natives=(), **options):
    trainer = mlp.trainers.DefaultTrainer.from_lightning(module, accelerator="cpu", log_every_n_steps=1)
    saves = mlp.callbacks.CheckpointManager(folder, "run", metric_to_monitor=None, **{"batch_level": False, **options})
    manager = mlp.trainers.TrainingManager(trainer, data, num_epochs=2, callbacks=[*natives, saves])
    with named() as names:
        manager.start_training()
    return names


def test_what_a_module_its_parts_data_and_callbacks_change_is_named_in_one_warning(tmp_path):
    module = Module()
    (names,) = train(module, tmp_path, module, [Native()])
    of_module = [f"Module.{name}" for name in OF_MODULE]
    assert names == sorted(
        [*of_module, "Module.part.calls", "Module.metric.scale", "DataLoader.dataset.served", "Native.count"]
    )


def test_within_an_epoch_what_is_gathered_in_it_is_named_too(tmp_path):
    module = Module()
    (names,) = train(module, tmp_path, module, batch_level=True, create_checkpoint_every=2)
    assert "Module.outputs" in names


def test_what_hooks_keep_is_not_named(tmp_path):
    module = WithHooks(KeepsItself)
    (names,) = train(module, tmp_path, DataLoader(SAMPLES, batch_size=8), [NativeWithState()])
    assert names == ["WithHooks.metric.scale"]


def test_of_a_part_what_the_modules_hook_names_is_not_named(tmp_path):
    module = WithHooks(Counting)
    (names,) = train(module, tmp_path, DataLoader(SAMPLES, batch_size=8))
    assert names == ["WithHooks.metric.scale"]


class Plain(pl.LightningModule):
    """Changes nothing but weights."""

    def __init__(self, optimizer):
        super().__init__()
        self.net, self.optimizer = torch.nn.Linear(3, 1), optimizer

    def training_step(self, batch, batch_idx):
        return self.net(batch).mean()

    def configure_optimizers(self):
        return self.optimizer(self.parameters())


class Data(pl.LightningDataModule):
    def __init__(self):
        super().__init__()
        self.batch_size = 8

    def train_dataloader(self):
        self.batch_size = self.batch_size + (self.trainer.current_epoch > 0)
        return DataLoader(SAMPLES, batch_size=self.batch_size)


class DataWithState(Data):
    def state_dict(self):
        return {"batch_size": self.batch_size}


@pytest.mark.parametrize(("data", "expected"), [(Data, ["Data.batch_size"]), (DataWithState, [])])
def test_that_of_a_datamodule(tmp_path, data, expected):
    trainer = mlp.trainers.DefaultTrainer.from_lightning(
        Plain(torch.optim.SGD), accelerator="cpu", reload_dataloaders_every_n_epochs=1
    )
    saves = mlp.callbacks.CheckpointManager(tmp_path, "run", metric_to_monitor=None, batch_level=False)
    manager = mlp.trainers.TrainingManager(trainer, data(), num_epochs=2, callbacks=[saves])
    with named() as names:
        manager.start_training()
    assert [name for each in names for name in each] == expected


class TrainModel(torch.nn.Module):
    def __init__(self, part):
        super().__init__()
        self.part, self.scale, self.steps = part, torch.ones(()), 0

    def forward(self, batch_data, evaluate_settings, inference_mode=False):
        self.scale = self.scale * 0.9
        self.steps += 1
        return (self.part(batch_data) * self.scale).square().mean() + self.steps / 100


@pytest.mark.parametrize("part", [Counting, KeepsItself])
def test_that_of_a_training_model_and_its_parts(tmp_path, part):
    model = TrainModel(part())
    trainer = mlp.trainers.DefaultTrainer(torch.optim.SGD(model.parameters(), lr=0.01), model.part, accelerator="cpu")
    saves = mlp.callbacks.CheckpointManager(tmp_path, "run", metric_to_monitor=None, create_checkpoint_every=2)
    data = DataLoader(Numbers(), batch_size=8)
    manager = mlp.trainers.TrainingManager(trainer, data, num_epochs=2, callbacks=[Native(), saves])
    trainer.set_training_model(model)
    with named() as names:
        manager.start_training()
    expected = ["DataLoader.dataset.served", "Native.count", "TrainModel.scale", "TrainModel.steps"]
    assert names == [sorted([*expected, "TrainModel.part.calls"] if part is Counting else expected)]


def test_a_resumed_run_names_what_it_changes_itself(tmp_path):
    module = Module()
    train(module, tmp_path, DataLoader(SAMPLES, batch_size=8))
    again = Module()
    trainer = mlp.trainers.DefaultTrainer.from_lightning(again, accelerator="cpu", log_every_n_steps=1)
    saves = mlp.callbacks.CheckpointManager(tmp_path, "run", metric_to_monitor=None)
    data = DataLoader(SAMPLES, batch_size=8)
    manager = mlp.trainers.TrainingManager(trainer, data, num_epochs=3, callbacks=[saves])
    with named() as names:
        manager.start_training(resume_from="auto")
    assert names == [sorted([*(f"Module.{name}" for name in OF_MODULE), "Module.part.calls", "Module.metric.scale"])]


class LooksAhead(torch.optim.SGD):
    """Moves the weights halfway to slow ones at every third step (Lookahead, Zhang et al., 2019)."""

    def __init__(self, parameters):
        super().__init__(parameters, lr=0.01)
        self.steps, self.slow = 0, None

    @torch.no_grad()
    def step(self, closure=None):
        loss = super().step(closure)
        weights = [weight for group in self.param_groups for weight in group["params"]]
        self.slow = [weight.clone() for weight in weights] if self.slow is None else self.slow
        self.steps += 1
        if self.steps % 3 == 0:
            for weight, slow in zip(weights, self.slow, strict=True):
                weight.copy_(slow.lerp_(weight, 0.5))
        return loss


class LooksAheadWithState(LooksAhead):
    def state_dict(self):
        return {**super().state_dict(), "steps": self.steps, "slow": self.slow}


class Wrapped(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, batch_data, evaluate_settings, inference_mode=False):
        return self.net(batch_data).mean()


@pytest.mark.parametrize("is_ported", [False, True])
@pytest.mark.parametrize("kind", [LooksAhead, LooksAheadWithState])
def test_that_of_an_optimizer(tmp_path, kind, is_ported):
    data = DataLoader(SAMPLES, batch_size=8)
    if is_ported:
        names = train(Plain(kind), tmp_path, data)
    else:
        model = Plain(kind)
        trainer = mlp.trainers.DefaultTrainer(kind(model.parameters()), model.net, accelerator="cpu")
        saves = mlp.callbacks.CheckpointManager(tmp_path, "run", metric_to_monitor=None, create_checkpoint_every=2)
        manager = mlp.trainers.TrainingManager(trainer, data, num_epochs=2, callbacks=[saves])
        trainer.set_training_model(Wrapped(model.net))
        with named() as names:
            manager.start_training()
    assert names == ([] if kind is LooksAheadWithState else [["optimizer.slow", "optimizer.steps"]])
