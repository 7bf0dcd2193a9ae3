"""LightningModules as projects have them: each uses what another doesn't."""

import pytorch_lightning as pl
import torch
import torchmetrics
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, random_split

NUM_FEATURES, NUM_CLASSES = 6, 3


def samples(count=63):
    """Random ones, of the random numbers that are there."""
    x = torch.randn(count, NUM_FEATURES)
    return TensorDataset(x, (x.sum(1) > 0).long() + (x[:, 0] > 1).long())


class Data(pl.LightningDataModule):
    """Split at random when it is set up."""

    def __init__(self, **options):
        super().__init__()
        self.options = options

    def setup(self, stage):
        self.train, self.val = random_split(samples(83), [63, 20])

    def train_dataloader(self):
        return DataLoader(self.train, batch_size=8, shuffle=True, **self.options)

    def val_dataloader(self):
        return DataLoader(self.val, batch_size=8)


class Stream(IterableDataset):
    """Without a length; each sample has noise."""

    def __init__(self, count=22):
        self.samples = samples(count)

    def __iter__(self):
        for x, y in self.samples:
            yield x + 0.1 * torch.randn(NUM_FEATURES), y


def loader(**options):
    return DataLoader(samples(), **{"batch_size": 8, "shuffle": True, **options})


def val_loader():
    return DataLoader(samples(20), batch_size=8)


class Classifier(pl.LightningModule):
    """BatchNorm and dropout; `seen` has each loss and each learning rate."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(NUM_FEATURES, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, NUM_CLASSES)
        )
        self.seen = []

    def loss(self, batch):
        x, y = batch
        return nn.functional.cross_entropy(self.net(x), y)

    def see(self, what, value):
        self.seen.append(
            (what, float(torch.as_tensor(value).detach()), self.trainer.optimizers[0].param_groups[0]["lr"])
        )

    def training_step(self, batch, batch_idx):
        loss = self.loss(batch)
        self.see(("train", batch_idx), loss)
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        loss = self.loss(batch)
        self.see(("val", batch_idx, dataloader_idx), loss)
        self.log("val_loss", loss, add_dataloader_idx=dataloader_idx > 0)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.01)


class Measuring(Classifier):
    """Metric objects, shared names, sums and maxima, and a hook that logs and draws."""

    def __init__(self):
        super().__init__()
        self.accuracy = torchmetrics.Accuracy("multiclass", num_classes=NUM_CLASSES)
        self.val_accuracy = torchmetrics.Accuracy("multiclass", num_classes=NUM_CLASSES)

    def training_step(self, batch, batch_idx):
        x, y = batch
        output = self.net(x)
        loss = nn.functional.cross_entropy(output, y)
        self.see(("train", batch_idx), loss)
        self.accuracy(output, y)
        self.log("train/accuracy", self.accuracy, on_step=True, on_epoch=True)
        self.log("train/loss", loss, on_step=True, on_epoch=True)
        self.log("count", float(len(y)), on_step=False, on_epoch=True, reduce_fx="sum")
        self.log("largest", loss, on_step=False, on_epoch=True, reduce_fx=torch.max)
        self.log("smallest", loss, on_step=True, on_epoch=True, reduce_fx="min")
        return loss

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        x, y = batch
        output = self.net(x)
        self.see(("val", batch_idx), loss := nn.functional.cross_entropy(output, y))
        self.val_accuracy(output, y)
        self.log("val/accuracy", self.val_accuracy)
        self.log_dict({"val/loss": loss, "val/most": output.max()}, on_step=True, on_epoch=True)

    def on_validation_epoch_end(self):
        self.log("val/drawn", torch.rand(()))

    def on_train_epoch_end(self):
        self.log("noise", torch.rand(()))


class WithSchedules(Classifier):
    """What `configure_optimizers` gives."""

    def __init__(self, configure):
        super().__init__()
        self.configure = configure

    def configure_optimizers(self):
        return self.configure(torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9))


class Hooks(Classifier):
    """Each hook leaves its trace in the random numbers, the weights or what is seen."""

    def on_fit_start(self):
        self.see("fit start", torch.rand(()))

    def on_train_start(self):
        self.see("train start", torch.rand(()))

    def on_train_epoch_start(self):
        self.see("epoch start", torch.rand(()))

    def on_train_batch_start(self, batch, batch_idx):
        self.see("batch start", torch.rand(()))
        return -1 if self.current_epoch == 1 and batch_idx == 4 else None

    def on_after_batch_transfer(self, batch, dataloader_idx):
        x, y = batch
        return (x + 0.1 * torch.randn_like(x) if self.trainer.training else x), y

    def on_before_zero_grad(self, optimizer):
        self.see("zero grad", torch.rand(()))

    def on_after_backward(self):
        self.see("backward", sum(weight.grad.abs().sum() for weight in self.parameters()))

    def on_before_optimizer_step(self, optimizer):
        for weight in self.parameters():
            weight.grad += 0.01 * torch.randn_like(weight)

    def configure_gradient_clipping(self, optimizer, gradient_clip_val=None, gradient_clip_algorithm=None):
        self.clip_gradients(optimizer, 0.1 * (1 + self.current_epoch), "norm")

    def optimizer_step(self, epoch, batch_idx, optimizer, optimizer_closure):
        if batch_idx % 3 == 2:
            optimizer_closure()  # and no step
        else:
            optimizer.step(closure=optimizer_closure)

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.see("batch end", outputs["loss"] + torch.rand(()))

    def on_validation_end(self):
        self.see("validation end", torch.rand(()))

    def on_train_epoch_end(self):
        self.see("epoch end", torch.rand(()))

    def on_train_end(self):
        self.see("train end", torch.rand(()))


class Sometimes(Classifier):
    """No loss now and then, and else a dict with more."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        return None if batch_idx % 3 == 1 else {"loss": loss, "extra": loss * 2, "about": "this"}

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.see("batch end", outputs["extra"] if outputs else -1.0)


class Quasi(Classifier):
    """LBFGS computes the loss several times for a step."""

    def configure_optimizers(self):
        return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=3)


class Late(Classifier):
    """Makes its layers, and its callbacks, when it is asked for them."""

    def __init__(self, callbacks=()):
        super().__init__()
        self.net = None
        self.callbacks = callbacks

    def configure_model(self):
        if self.net is None:
            self.net = nn.Sequential(nn.Linear(NUM_FEATURES, 8), nn.ReLU(), nn.Linear(8, NUM_CLASSES))

    def configure_callbacks(self):
        return list(self.callbacks)


class OwnSchedule(Classifier):
    """Steps its schedule itself."""

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.05)
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9), "interval": "step"}]

    def lr_scheduler_step(self, scheduler, metric):
        if self.global_step % 2:
            scheduler.step()


class Adversarial(pl.LightningModule):
    """Two optimizers, by hand."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, NUM_FEATURES))
        self.critic = nn.Sequential(nn.Linear(NUM_FEATURES, 8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 1))
        self.seen = []

    def training_step(self, batch, batch_idx):
        of_generator, of_critic = self.optimizers()
        real, _ = batch
        noise = torch.randn(len(real), 4)
        self.toggle_optimizer(of_generator)
        loss = -self.critic(self.generator(noise)).mean()
        of_generator.zero_grad()
        self.manual_backward(loss)
        of_generator.step()
        self.untoggle_optimizer(of_generator)
        self.log("generator", loss)
        self.seen.append(("generator", loss.item()))
        self.toggle_optimizer(of_critic)
        fake = self.generator(noise).detach()
        loss = self.critic(fake).mean() - self.critic(real).mean() + self.critic(real).square().mean()
        of_critic.zero_grad()
        self.manual_backward(loss)
        self.clip_gradients(of_critic, 0.5, "norm")
        of_critic.step()
        self.untoggle_optimizer(of_critic)
        self.log("critic", loss, on_step=True, on_epoch=True)
        self.seen.append(("critic", loss.item()))
        schedule, _ = self.lr_schedulers()
        schedule.step()

    def on_train_epoch_end(self):
        _, schedule = self.lr_schedulers()
        schedule.step(self.trainer.callback_metrics["critic_epoch"])

    def validation_step(self, batch, batch_idx):
        self.log("val_critic", loss := self.critic(batch[0]).mean())
        self.seen.append(("val", loss.item()))

    def configure_optimizers(self):
        optimizers = [
            torch.optim.Adam(self.generator.parameters(), lr=0.01),
            torch.optim.SGD(self.critic.parameters(), lr=0.02, momentum=0.5),
        ]
        return optimizers, [
            torch.optim.lr_scheduler.StepLR(optimizers[0], 4),
            torch.optim.lr_scheduler.ReduceLROnPlateau(optimizers[1], patience=0),
        ]
