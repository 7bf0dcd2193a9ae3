"""What a script does when training starts is done in a resumed run too, and mustn't undo what that goes on with."""

import pytest
import pytorch_lightning as pl
import torch
import torchmetrics
from contract.keeper import Keeper
from pytorch.native_runs import differences, native, ported, same
from torch.utils.data import DataLoader

SAMPLES = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))


class Module(pl.LightningModule):
    """Shows in its loss and its logs all that it keeps."""

    def __init__(self, resets=()):
        super().__init__()
        self.net, self.best, self.seen = torch.nn.Linear(3, 1), torchmetrics.MaxMetric(), []
        self.register_buffer("scale", torch.ones(()))
        self.count, self.resets = 0, resets

    def training_step(self, batch, batch_idx):
        self.count += 1
        self.scale += 0.1
        loss = self.net(batch).square().mean() * self.scale * (1 + self.count / 20)
        self.best(10.0 - self.trainer.global_step)
        self.seen.append(("loss", batch_idx, loss.item()))
        return loss

    def on_train_epoch_end(self):
        self.seen.append(("best", self.current_epoch, self.best.compute().item()))

    def on_save_checkpoint(self, checkpoint):
        checkpoint["count"] = self.count

    def on_load_checkpoint(self, checkpoint):
        self.count = checkpoint["count"]

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.05)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)]

    def on_fit_start(self):
        self.reset("on_fit_start")

    def on_train_start(self):
        self.reset("on_train_start")

    def reset(self, hook):
        for name, what in self.resets:
            if name == hook:
                what(self)


def metric(module):
    module.best.reset()


def weights(module):
    torch.nn.init.constant_(module.net.weight, 0.1)


def buffer(module):
    module.scale.fill_(1.0)


def count(module):
    module.count = 0


def optimizer(module):
    module.optimizers().optimizer.state.clear()


def rate(module):
    for group in module.optimizers().optimizer.param_groups:
        group["lr"] = 0.07


def trained(module):
    module.net.bias.requires_grad_(True)


class Resets(pl.Callback):
    """Resets the module, and what it remembers itself."""

    def __init__(self, resets):
        self.resets, self.seen, self.epochs = resets, [], 0

    def on_fit_start(self, trainer, pl_module):
        self.reset("on_fit_start", pl_module)

    def on_train_start(self, trainer, pl_module):
        self.epochs = 0
        self.reset("on_train_start", pl_module)

    def reset(self, hook, module):
        for name, what in self.resets:
            if name == hook:
                what(module)

    def on_train_epoch_end(self, trainer, pl_module):
        self.epochs += 1
        pl_module.seen.append(("epochs", self.epochs, 0.0))

    def state_dict(self):
        return {"epochs": self.epochs}

    def load_state_dict(self, state_dict):
        self.epochs = state_dict["epochs"]


def data():
    return DataLoader(SAMPLES, batch_size=8)


WHAT = [metric, weights, buffer, count, optimizer, rate, trained]


@pytest.mark.parametrize("hook", ["on_fit_start", "on_train_start"])
@pytest.mark.parametrize("what", WHAT)
@pytest.mark.parametrize("of", ["module", "callback"])
def test_a_start_hook_undoes_nothing(tmp_path, of, what, hook):
    resets = [(hook, what)]

    def make():
        return Module(resets if of == "module" else ())

    def callbacks():
        return [Resets(resets if of == "callback" else ())]

    keeper = Keeper(tmp_path)
    whole = ported(make, data, callbacks=[keeper, *callbacks()])
    assert differences(native(make, data, callbacks=callbacks()), whole) == []
    for batches in (3, 5, 8):  # within an epoch, and at the end of one
        path = [path for path, done in keeper.saved if done == batches][-1]
        resumed = ported(make, data, callbacks=callbacks(), resume_from=path, seed=9)
        seen = resumed.module.seen
        assert same(seen, whole.module.seen[len(whole.module.seen) - len(seen) :])
        for name in ("weights", "optimizers", "schedules"):
            assert same(resumed.outcome[name], whole.outcome[name])
