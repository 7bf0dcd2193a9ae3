"""A metric path that the module's validation doesn't log is an error before the first batch."""

import pytest
import pytorch_lightning as pl
import torch

import mlpug.pytorch as mlp
from mlpug.errors import ConfigurationError

LOADER = torch.utils.data.DataLoader(torch.ones(4, 2), batch_size=2)


class Logging(pl.LightningModule):
    def __init__(self, names=("val_loss", "val/accuracy"), only_where_it_counts=False):
        super().__init__()
        self.linear = torch.nn.Linear(2, 1)
        self.names, self.only_where_it_counts = names, only_where_it_counts
        self.num_batches = 0

    def training_step(self, batch, batch_idx):
        self.num_batches += 1
        return self.linear(batch).mean()

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        if self.only_where_it_counts and self.trainer.sanity_checking:
            return
        for name in self.names:
            self.log(name, self.linear(batch).mean())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Silent(Logging):
    validation_step = pl.LightningModule.validation_step


class Wait(mlp.callbacks.Callback):
    def __init__(self, *paths):
        self.paths, self.seen = paths, None

    def required_metric_paths(self):
        return self.paths

    def on_epoch_completed(self, logs):
        self.seen = [logs.at(path) for path in self.paths]


class Write(mlp.callbacks.Callback):
    def metric_paths(self):
        return ["validation.dataset.own"]

    def on_epoch_completed(self, logs):
        logs["current"].child("validation").child("dataset")["own"] = 0.5


def train(module, *callbacks, val_dataloaders=LOADER, **arguments):
    trainer = mlp.trainers.DefaultTrainer.from_lightning(
        module, accelerator="cpu", val_dataloaders=val_dataloaders, **arguments
    )
    mlp.trainers.TrainingManager(trainer, LOADER, callbacks=list(callbacks)).start_training()


def test_a_metric_that_the_validation_does_not_log_is_refused_with_what_it_logs():
    module = Logging()
    published = "are validation.dataset.val/accuracy, validation.dataset.val_loss. Correct the path"
    with pytest.raises(ConfigurationError, match=published) as refused:
        train(module, Wait("validation.dataset.loss"))
    assert "Wait needs the metric path 'validation.dataset.loss', which nobody writes" in str(refused.value)
    assert module.num_batches == 0


def test_each_of_several_loaders_has_names_of_its_own():
    published = "val_loss/dataloader_idx_0, validation.dataset.val_loss/dataloader_idx_1"
    with pytest.raises(ConfigurationError, match=published):
        train(Logging(("val_loss",)), Wait("validation.dataset.val_loss"), val_dataloaders=[LOADER, LOADER])
    train(Logging(), Wait("validation.dataset.val_loss/dataloader_idx_1"), val_dataloaders=[LOADER, LOADER])


def test_without_a_validation_nothing_is_published():
    module = Silent()
    with pytest.raises(ConfigurationError, match=r"Published in 'validation.dataset' are no metrics"):
        train(module, Wait("validation.dataset.val_loss"), val_dataloaders=None)
    assert module.num_batches == 0


@pytest.mark.parametrize(
    "paths",
    [
        ["validation"],
        ["validation.dataset"],
        ["validation.dataset.val_loss", "validation.dataset.val/accuracy"],
        ["training.batch.loss"],
        ["validation.dataset.own"],
    ],
)
def test_what_is_published_or_written_by_another_callback_is_found(paths):
    wait = Wait(*paths)
    train(Logging(), Write(), wait)
    assert None not in wait.seen


def test_a_module_that_logs_only_where_it_counts_is_believed():
    wait = Wait("validation.dataset.val_loss")
    train(Logging(only_where_it_counts=True), wait)
    assert isinstance(wait.seen[0], float)


def test_without_the_sanity_check_nobody_knows():
    wait = Wait("validation.dataset.loss")
    train(Logging(), wait, num_sanity_val_steps=0)
    assert wait.seen == [None]


class Look(mlp.callbacks.Callback):
    def __init__(self, path):
        self.path, self.found = path, []

    def on_batch_training_completed(self, batch, logs):
        self.found.append(logs.at(self.path))


def test_once_the_sanity_check_has_told_the_names_a_look_at_another_one_is_an_error():
    looks = Look("validation.dataset.val_loss")
    train(Logging(), looks)
    assert looks.found == [None, None]
    with pytest.raises(ConfigurationError, match=r"nobody writes .* Did you mean validation.dataset.val_loss\?"):
        train(Logging(), Look("validation.dataset.val_los"))


def test_where_there_is_no_validation_nobody_writes_what_it_would_log():
    with pytest.raises(ConfigurationError, match="nobody writes that path"):
        train(Silent(), Look("validation.dataset.val_loss"), val_dataloaders=None)


def test_what_the_module_logs_in_a_step_may_have_any_name_and_a_slip_of_the_pen_is_told():
    train(Silent(), Look("training.batch.anything"), val_dataloaders=None)
    with pytest.warns(mlp.errors.MlpugWarning, match=r"training.batch.los'.* mean training.batch.loss\?"):
        train(Silent(), Look("training.batch.los"), val_dataloaders=None)
