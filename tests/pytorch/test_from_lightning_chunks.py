"""A LightningModule's batches in parts: the update, what is logged and what callbacks hear is the whole batch's."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch.native_runs import native, ported
from torch.utils.data import DataLoader, TensorDataset

import mlpug.pytorch as mlp
from mlpug.chunks import Group
from mlpug.errors import ConfigurationError

PARTS = {"batch_chunk_size": 3}
TOGETHER = {"gradient_accumulation_steps": 2}


def samples():
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(22, 4, dtype=torch.float64, generator=generator)
    counts = (x[:, 0] > -0.5).double()
    counts[8:11] = 0.0  # a chunk in which nothing counts
    return TensorDataset(x, x.sum(1), counts)


def whole_batches(size=8):
    return DataLoader(samples(), batch_size=size)


class Regression(pl.LightningModule):
    """In float64, without anything that looks at a batch as a whole."""

    def __init__(self, counts_tokens=False, automatic=True):
        super().__init__()
        self.automatic_optimization = automatic
        self.counts_tokens = counts_tokens
        self.linear = torch.nn.Linear(4, 1).double()
        self.seen, self.sizes, self.transferred, self.norms = [], [], [], []

    def on_before_batch_transfer(self, batch, dataloader_idx):
        assert not isinstance(batch, Group)
        self.transferred.append(len(batch[0]))
        return batch

    def on_after_batch_transfer(self, batch, dataloader_idx):
        assert not isinstance(batch, Group)
        return [batch[0] * 2, *batch[1:]]

    def training_step(self, batch, batch_idx):
        x, y, counts = batch
        self.sizes.append(len(x))
        errors = (self.linear(x)[:, 0] - y).square()
        if not self.counts_tokens:
            loss = errors.mean()
            self.log("logged", loss, on_step=True, on_epoch=True)
            return loss
        loss = (errors * counts).sum() / counts.sum()  # NaN where nothing counts
        return {"loss": loss, "num_samples": counts.sum(), "errors": errors}

    def on_before_optimizer_step(self, optimizer):
        self.norms.append(sum(weight.grad.square().sum() for weight in self.parameters()).sqrt().item())

    def validation_step(self, batch, batch_idx):
        assert len(batch[0]) in (11, 22)  # isn't cut
        self.log("val", (self.linear(batch[0])[:, 0] - batch[1]).square().mean())

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.5)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Watch(mlp.callbacks.Callback):
    def __init__(self):
        self.heard, self.logged, self.losses, self.outputs = [], [], [], []

    def on_batch_training_start(self, batch, logs):
        self.heard.append(("start", len(batch[0])))

    def on_batch_training_completed(self, batch, logs):
        self.heard.append(("completed", len(batch[0])))
        self.losses.append(logs.at("training.batch.loss"))
        self.logged.append(logs.at("training.batch.logged"))
        self.outputs.append(self.manager.step_output)

    def on_epoch_completed(self, logs):
        self.logged.append(logs.at("training.epoch.logged"))


def assert_close(one, other):
    torch.testing.assert_close(torch.tensor(one), torch.tensor(other), rtol=1e-12, atol=1e-12, equal_nan=True)


def assert_same_weights(one, other):
    for name, weight in one.module.state_dict().items():
        torch.testing.assert_close(weight, other.module.state_dict()[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("clipping", [{}, {"gradient_clip_val": 0.5}], ids=["free", "clipped"])
@pytest.mark.parametrize(
    ("options", "size", "sizes"),
    [
        (PARTS, 8, [3, 3, 2, 3, 3, 2, 3, 3]),
        (TOGETHER, 4, [4, 4, 4, 4, 4, 2]),
        (TOGETHER, 8, [8, 8, 6]),
        ({**PARTS, **TOGETHER}, 4, [3, 1, 3, 1, 3, 1, 3, 1, 3, 1, 2]),
    ],
    ids=["chunks", "groups", "a short last group", "both"],
)
def test_parts_give_what_the_whole_batch_gives(options, size, sizes, clipping):
    together = options.get("gradient_accumulation_steps", 1)
    whole, watch = (Watch(), Watch())
    val = {"val_dataloaders": lambda: whole_batches(22), **clipping}
    expected = ported(Regression, lambda: whole_batches(size * together), callbacks=[whole], **val)
    parts = ported(Regression, lambda: whole_batches(size), callbacks=[watch], **val, **options)
    assert parts.module.sizes == sizes * 3
    assert watch.heard == whole.heard
    assert_close(watch.losses, whole.losses)
    assert_close(watch.logged, whole.logged)
    assert_close(parts.module.norms, expected.module.norms)
    assert_same_weights(parts, expected)
    assert parts.outcome["schedules"] == expected.outcome["schedules"]
    assert parts.lightning.global_step == expected.lightning.global_step == len(whole.losses)
    assert set(parts.module.transferred) <= {size, 22, 22 % size}
    of_lightning = native(
        Regression, lambda: whole_batches(size * together), val_dataloaders=lambda: whole_batches(22), **clipping
    )
    assert_same_weights(parts, of_lightning)


def test_counts_are_those_that_training_step_returns():
    watch = Watch()
    options = {"num_epochs": 2, "val_dataloaders": lambda: whole_batches(22), **PARTS}
    trained = ported(lambda: Regression(True), whole_batches, callbacks=[watch], **options)
    pl.seed_everything(1, verbose=False)
    linear = torch.nn.Linear(4, 1).double()
    optimizer = torch.optim.SGD(linear.parameters(), lr=0.05, momentum=0.5)
    losses, rate = [], 0.05
    for _ in range(2):
        for x, y, counts in whole_batches():
            optimizer.zero_grad()
            kept = counts > 0
            loss = (linear(2 * x[kept])[:, 0] - y[kept]).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            rate *= 0.9
            optimizer.param_groups[0]["lr"] = rate
    assert_close(watch.losses, losses)
    for weight, expected in zip(trained.module.linear.parameters(), linear.parameters(), strict=True):
        torch.testing.assert_close(weight, expected, rtol=1e-12, atol=1e-12)
    assert watch.outputs[-1].auxiliary_results["errors"].shape == (6,)
    assert float(watch.outputs[-1].num_samples) == float(samples()[16:][2].sum())


@pytest.mark.parametrize("options", [PARTS, TOGETHER])
def test_manual_optimization_is_refused_when_the_trainer_is_made(options):
    with pytest.raises(ConfigurationError, match="optimizes manually, and its batches can't be computed in parts"):
        mlp.trainers.DefaultTrainer.from_lightning(Regression(automatic=False), accelerator="cpu", **options)


def test_a_module_that_takes_the_iterator_is_refused_in_parts():
    class OfIterator(Regression):
        def training_step(self, dataloader_iter):
            batch, _, _ = next(dataloader_iter)
            return super().training_step(batch, 0)

    with pytest.raises(ConfigurationError, match="dataloader_iter"):
        ported(OfIterator, whole_batches, **PARTS)
