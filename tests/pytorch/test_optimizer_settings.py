"""Other settings of torch's optimizers in the script of a resumed run, in both ways to train."""

import warnings

import pytest
import pytorch_lightning as pl
import torch
from contract.keeper import Keeper
from torch.optim import lr_scheduler as schedules

import mlpug.pytorch as mlp
from mlpug.callbacks import LRSchedulerWrapper
from mlpug.errors import MlpugWarning

STOPPED, NUM_BATCHES = 3, 6
OLD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0}
BATCHES = [torch.linspace(-1, 1, 8).reshape(4, 2) * (1 + number) for number in range(NUM_BATCHES)]
WAYS = ["DefaultTrainer", "from_lightning"]
SCHEDULES = {
    "steps": lambda optimizer: schedules.StepLR(optimizer, 2, 0.5),
    "cosine": lambda optimizer: schedules.CosineAnnealingLR(optimizer, 10, eta_min=0.001),
    "in a sequence": lambda optimizer: schedules.SequentialLR(
        optimizer, [schedules.ConstantLR(optimizer, 0.5, 2), schedules.ExponentialLR(optimizer, 0.5)], [2]
    ),
    "one cycle": lambda optimizer: schedules.OneCycleLR(optimizer, 4 * optimizer.param_groups[0]["lr"], total_steps=20),
}


class Module(pl.LightningModule):
    """The same as a training model and as a LightningModule."""

    def __init__(self, settings, schedule=None):
        super().__init__()
        self.linear = torch.nn.Linear(2, 1)
        with torch.no_grad():
            self.linear.weight.fill_(0.5), self.linear.bias.fill_(0.5)
        self.optimizer = torch.optim.SGD(self.linear.parameters(), **settings)
        self.schedule = None if schedule is None else schedule(self.optimizer)

    def forward(self, batch_data, evaluate_settings=None, inference_mode=None):
        return self.linear(batch_data).square().mean()

    def training_step(self, batch, batch_idx):
        return self(batch)

    def configure_optimizers(self):
        if self.schedule is None:
            return self.optimizer
        return [self.optimizer], [{"scheduler": self.schedule, "interval": "step"}]


def train(way, settings, folder=None, schedule=None, **resuming):
    module = Module(settings, schedule)
    if way == "from_lightning":
        trainer = mlp.trainers.DefaultTrainer.from_lightning(module, accelerator="cpu")
    else:
        trainer = mlp.trainers.DefaultTrainer(module.optimizer, module.linear, accelerator="cpu")
    rates = []
    note = mlp.callbacks.Callback()
    note.on_batch_training_start = lambda batch, logs: rates.append(module.optimizer.param_groups[0]["lr"])
    callbacks = [note]
    if way == "DefaultTrainer" and schedule is not None:
        callbacks.insert(0, LRSchedulerWrapper(module.schedule))
    keeper = [] if folder is None else [Keeper(folder)]
    manager = mlp.trainers.TrainingManager(
        trainer, torch.utils.data.DataLoader(BATCHES, batch_size=None), callbacks=[*callbacks, *keeper]
    )
    if way == "DefaultTrainer":
        trainer.set_training_model(module)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        manager.start_training(**resuming)
    told = [str(each.message) for each in caught if issubclass(each.category, MlpugWarning)]
    path = keeper[0].saved[STOPPED - 1][0] if keeper else None
    return module.linear.state_dict(), rates, told, path


def by_hand(settings, then):
    """Weights of a loop that changes its settings in the middle."""
    module = Module(settings)
    for number, batch in enumerate(BATCHES):
        if number == STOPPED:
            module.optimizer.param_groups[0].update(then)
        module.optimizer.zero_grad()
        module(batch).backward()
        module.optimizer.step()
    return module.linear.state_dict()


@pytest.mark.parametrize("source", ["checkpoint", "script"])
@pytest.mark.parametrize("changed", [{"lr": 0.01}, {"weight_decay": 0.5}, {"momentum": 0.5, "nesterov": True}])
@pytest.mark.parametrize("way", WAYS)
def test_settings_are_the_checkpoints_or_the_scripts(tmp_path, way, changed, source):
    *_, path = train(way, OLD, tmp_path)
    weights, _, told, _ = train(way, {**OLD, **changed}, resume_from=path, resume_optimizer_settings=source)
    expected = by_hand(OLD, then=changed if source == "script" else {})
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
    (message,) = told
    for key, value in changed.items():
        old = OLD.get(key, False)
        used = value if source == "script" else old
        both = f"{key} of 'optimizer' was {shown(old)}, is {shown(value)} in this script, and training goes on with"
        assert f"{both} {shown(used)}" in message


def shown(value):
    return str(value) if isinstance(value, bool) else f"{value:g}"


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("way", WAYS)
def test_schedules_go_on_at_their_step(tmp_path, way, name):
    schedule, new = SCHEDULES[name], {**OLD, "lr": 0.01}
    _, _, told, path = train(way, OLD, tmp_path, schedule)
    assert told == []
    for settings, source, expected in ((OLD, "checkpoint", OLD), (new, "checkpoint", OLD), (new, "script", new)):
        _, rates, told, _ = train(way, settings, None, schedule, resume_from=path, resume_optimizer_settings=source)
        assert rates == rates_by_hand(expected, schedule)[STOPPED:]
        assert len(told) == (settings is not OLD)


def rates_by_hand(settings, schedule):
    module, rates = Module(settings, schedule), []
    for _ in BATCHES:
        rates.append(module.optimizer.param_groups[0]["lr"])
        module.optimizer.step()
        module.schedule.step()
    return rates


@pytest.mark.parametrize("way", WAYS)
def test_groups_are_told_apart(tmp_path, way):
    class Two(Module):
        def __init__(self, rate):
            super().__init__(OLD)
            groups = [{"params": [self.linear.weight]}, {"params": [self.linear.bias], "lr": rate}]
            self.optimizer = torch.optim.SGD(groups, lr=0.1)

    def run(rate, callbacks=(), **resuming):
        module = Two(rate)
        if way == "from_lightning":
            trainer = mlp.trainers.DefaultTrainer.from_lightning(module, accelerator="cpu")
        else:
            trainer = mlp.trainers.DefaultTrainer(module.optimizer, module.linear, accelerator="cpu")
        data = torch.utils.data.DataLoader(BATCHES, batch_size=None)
        manager = mlp.trainers.TrainingManager(trainer, data, callbacks=callbacks)
        if way == "DefaultTrainer":
            trainer.set_training_model(module)
        manager.start_training(**resuming)
        return [group["lr"] for group in module.optimizer.param_groups]

    keeper = Keeper(tmp_path)
    run(0.2, [keeper])
    path = keeper.saved[STOPPED][0]
    with pytest.warns(MlpugWarning, match="lr of parameter group 1 of 'optimizer' was 0.2, is 0.3 in this script"):
        assert run(0.3, resume_from=path, resume_optimizer_settings="script") == [0.1, 0.3]
    assert run(0.2, resume_from=path) == [0.1, 0.2]
