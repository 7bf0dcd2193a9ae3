"""An error in a step that has changed weights leaves the checkpoint from before; what hasn't is undone."""

import pytest
import torch
from pytorch.native_projects import Adversarial, Classifier, Data
from pytorch.native_runs import ported, same

import mlpug.pytorch as mlp
from mlpug import checkpoints

BATCHES = 11  # that are whole, in the second epoch of 8


class BrokenError(Exception):
    pass


class Breaking:
    """A module that breaks in the step of one batch, where its own code says."""

    at = None

    def pass_by(self):
        if self.at is not None and self.trainer.fit_loop.epoch_loop.batch_progress.total.processed == self.at:
            raise BrokenError


class BehindTheStep(Breaking, Classifier):
    def optimizer_step(self, *arguments, **options):
        super().optimizer_step(*arguments, **options)
        self.pass_by()


class OldFashioned(torch.optim.SGD):
    """Changes weights in a way that torch doesn't count, one by one."""

    break_here = staticmethod(lambda: None)

    def step(self, closure=None):
        loss = None if closure is None else closure()
        for parameter in self.param_groups[0]["params"]:
            parameter.data.add_(parameter.grad, alpha=-0.1)
            self.break_here()
        return loss


class WithinTheStep(Breaking, Classifier):
    def configure_optimizers(self):
        optimizer = OldFashioned(self.parameters(), lr=0.1)
        optimizer.break_here = self.pass_by
        return optimizer


class BehindAStepOfTheOptimizersOwn(WithinTheStep):
    """Lightning knows nothing of it: it is called on torch's optimizer."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        optimizer = self.optimizers(use_pl_optimizer=False)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.pass_by()


class AtASecondLook(Breaking, Classifier):
    """L-BFGS computes the loss several times in a step, at several weights."""

    def __init__(self):
        super().__init__()
        self.register_buffer("looks", torch.zeros(()))

    def on_train_batch_start(self, batch, batch_idx):
        self.looks.zero_()

    def training_step(self, batch, batch_idx):
        self.looks.add_(1)
        if self.looks == 2:
            self.pass_by()
        return super().training_step(batch, batch_idx)

    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), lr=0.05, max_iter=3)


class BehindAnAverage(Breaking, Classifier):
    """Weights without an optimizer follow the others in each step."""

    def __init__(self):
        super().__init__()
        self.average = torch.nn.Linear(16, 3).requires_grad_(False)

    def training_step(self, batch, batch_idx):
        with torch.no_grad():
            self.average.bias.add_(self.net[0].bias.mean() + 0.1)
        self.pass_by()
        return super().training_step(batch, batch_idx)


class WhileOthersAreFrozen(Breaking, Adversarial):
    """`toggle_optimizer` has frozen the critic."""

    def manual_backward(self, loss, *arguments, **options):
        self.pass_by()
        super().manual_backward(loss, *arguments, **options)


def saves(folder, every):
    return mlp.callbacks.CheckpointManager(folder, "run", metric_to_monitor=None, create_checkpoint_every=every)


def broken(make):
    module = make()
    module.at = BATCHES
    return module


def resumed_after_error(make, folder, every):
    with pytest.raises(BrokenError):
        ported(lambda: broken(make), Data, 2, callbacks=[saves(folder, every)])
    path = folder / "run-training-checkpoint.safetensors"
    assert checkpoints.load(path)["run"]["batches_done"] == BATCHES
    return ported(make, Data, 2, resume_from=path)


def assert_equal(whole, resumed):
    for name in ("weights", "optimizers", "schedules", "steps", "epochs", "random"):
        assert same(whole.outcome[name], resumed.outcome[name]), name
    flags = [[each.requires_grad for each in trained.module.parameters()] for trained in (whole, resumed)]
    assert flags[0] == flags[1]


@pytest.mark.parametrize(
    "make",
    [BehindTheStep, WithinTheStep, BehindAStepOfTheOptimizersOwn, AtASecondLook, BehindAnAverage],
)
def test_changed_weights_are_in_no_checkpoint(make, tmp_path):
    resumed = resumed_after_error(make, tmp_path / "saved at each batch", every=1)
    assert_equal(ported(make, Data, 2), resumed)
    with pytest.raises(BrokenError):
        ported(lambda: broken(make), Data, 2, callbacks=[saves(tmp_path / "not saved", 1000)])
    assert not list((tmp_path / "not saved").glob("*training-checkpoint*"))


def test_what_a_step_has_frozen_is_trained_again(tmp_path):
    resumed = resumed_after_error(WhileOthersAreFrozen, tmp_path, every=1000)
    assert_equal(ported(WhileOthersAreFrozen, Data, 2), resumed)
