"""mlpug's callbacks in a run of Lightning's own: it isn't changed, and they see what it knows."""

import warnings

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torchmetrics

import mlpug.pytorch as mlp
from mlpug import checkpoints
from mlpug.callbacks import Callback
from mlpug.errors import CheckpointMismatchError, ConfigurationError

NUM_EPOCHS = 3


class Project(pl.LightningModule):
    """Dropout and shuffled data: another use of the random numbers would show."""

    def __init__(self, fails_at=None):
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Dropout(0.3))
        self.head = torch.nn.Linear(8, 3)
        self.accuracy = torchmetrics.Accuracy("multiclass", num_classes=3)
        self.seen, self.fails_at = [], fails_at

    def loss(self, batch):
        x, y = batch
        logits = self.head(self.net(x))
        self.accuracy(logits, y)
        return torch.nn.functional.cross_entropy(logits, y)

    def training_step(self, batch, batch_idx):
        if len(self.seen) == self.fails_at:
            raise RuntimeError("in the middle")
        loss = self.loss(batch)
        self.seen.append(loss.item())
        self.log("train_loss", loss, on_step=True, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.loss(batch))
        self.log("val_acc", self.accuracy)

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=0.02)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": plateau, "monitor": "val_loss"}}


class Data(pl.LightningDataModule):
    def setup(self, stage):
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(53, 5, generator=generator)
        samples = torch.utils.data.TensorDataset(x, x[:, :3].argmax(dim=1))
        self.training, self.validation = torch.utils.data.random_split(samples, [37, 16])

    def train_dataloader(self):
        return torch.utils.data.DataLoader(self.training, batch_size=8, shuffle=True)

    def val_dataloader(self):
        return torch.utils.data.DataLoader(self.validation, batch_size=8)


class Keep(Callback):
    """Every event, with what the logs say then."""

    def __init__(self):
        self.events, self.outcome = [], None

    def on_training_start(self, logs):
        self.events.append(("start", logs["final_epoch"], logs["final_batch_step"]))

    def on_epoch_start(self, logs):
        self.events.append(("epoch", logs["current"]["epoch"]))

    def on_batch_training_start(self, batch, logs):
        self.events.append(("batch", len(batch[0])))

    def on_batch_training_completed(self, batch, logs):
        self.events.append(("done", logs["current"]["training"]["batch"].snapshot()))

    def on_epoch_completed(self, logs):
        current = logs["current"]
        self.events.append(("completed", current["training"]["epoch"].snapshot(), current["validation"].snapshot()))

    def on_training_ended(self, logs, **outcome):
        self.outcome = outcome

    def of(self, kind):
        return [event[1:] for event in self.events if event[0] == kind]


def fit(*callbacks, num_epochs=NUM_EPOCHS, module=None, ckpt_path=None, **arguments):
    pl.seed_everything(3, verbose=False)
    module = Project() if module is None else module
    options = {"enable_checkpointing": False, "logger": False, "max_epochs": num_epochs, **arguments}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            accelerator="cpu",
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=list(callbacks),
            **options,
        )
        trainer.fit(module, datamodule=Data(), ckpt_path=ckpt_path)
    return module, trainer


def assert_same_weights(module, other):
    for name, weight in module.state_dict().items():
        assert torch.equal(weight, other.state_dict()[name]), name


def manager_callbacks(directory, **arguments):
    arguments = {"batch_level": False, "metric_to_monitor": "validation.dataset.val_loss", **arguments}
    return [
        mlp.callbacks.TrainingMetricsLogger(metric_evaluator=mlp.evaluation.MetricEvaluator()),
        mlp.callbacks.LogProgress(log_period=2, set_names=["training", "validation"]),
        mlp.callbacks.Tensorboard(
            "run", ["training.batch.train_loss", "training.sliding_window.loss"], directory=directory
        ),
        mlp.callbacks.CheckpointManager(directory, "run", **arguments),
    ]


def test_the_run_is_the_same_and_the_logs_have_what_it_logs():
    alone, _ = fit()
    keep = Keep()
    module, trainer = fit(mlp.callbacks.as_native(keep))
    assert module.seen == alone.seen
    assert_same_weights(module, alone)
    assert keep.events[0] == ("start", NUM_EPOCHS - 1, 4)
    assert [size for (size,) in keep.of("batch")] == [8, 8, 8, 8, 5] * NUM_EPOCHS
    done = [logs for (logs,) in keep.of("done")]
    assert [logs["loss"] for logs in done] == [logs["train_loss"] for logs in done] == module.seen
    assert all(logs["did_update_model"] for logs in done)
    *_, (of_training, of_validation) = keep.of("completed")
    metrics = trainer.callback_metrics
    assert of_training["train_loss"] == metrics["train_loss_epoch"].item()
    assert of_validation["dataset"] == {name: metrics[name].item() for name in ("val_loss", "val_acc")}
    assert keep.outcome == {
        "stopped_early": False,
        "stopped_on_error": False,
        "interrupted": False,
        "callback_calls_success": True,
    }


def test_a_script_gets_checkpoints_by_one_line_and_goes_on_as_if_it_had_never_stopped(tmp_path, capsys):
    alone, _ = fit()
    module, _ = fit(mlp.callbacks.as_native(*manager_callbacks(tmp_path)), num_epochs=2)
    assert module.seen == alone.seen[: len(module.seen)]
    names = {path.name for path in tmp_path.glob("*.safetensors")}
    assert names == {
        f"run-{kind}.safetensors"
        for kind in ("best-model-checkpoint", "latest-model-checkpoint", "training-checkpoint")
    }
    latest = Project()
    mlp.load_model_checkpoint(tmp_path / "run-latest-model-checkpoint.safetensors").restore(model=latest)
    assert_same_weights(latest, module)
    assert list((tmp_path / "run").rglob("events.*"))
    assert "validation     : val_loss" in capsys.readouterr().out

    pl.seed_everything(3, verbose=False)
    resumed = Project()
    trainer = mlp.trainers.DefaultTrainer.from_lightning(resumed, accelerator="cpu")
    manager = mlp.trainers.TrainingManager(trainer, Data(), num_epochs=NUM_EPOCHS)
    manager.start_training(resume_from=tmp_path / "run-training-checkpoint.safetensors")
    assert resumed.seen == alone.seen[len(module.seen) :]
    assert_same_weights(resumed, alone)


def test_within_an_epoch_the_place_in_the_data_isnt_known(tmp_path):
    callback = mlp.callbacks.CheckpointManager(
        tmp_path, "run", metric_to_monitor=None, create_checkpoint_every=3, create_latest_model_checkpoint=False
    )
    with pytest.raises(RuntimeError, match="in the middle"):
        fit(mlp.callbacks.as_native(callback), module=Project(fails_at=8))
    path = tmp_path / "run-training-checkpoint.safetensors"
    assert checkpoints.describe(path).description["global_iter"] == 8
    trainer = mlp.trainers.DefaultTrainer.from_lightning(Project(), accelerator="cpu")
    manager = mlp.trainers.TrainingManager(trainer, Data(), num_epochs=NUM_EPOCHS)
    with pytest.raises(
        CheckpointMismatchError, match=r"within an epoch of a native run, after 3 batches of it.*batch_level=False"
    ):
        manager.start_training(resume_from=path)


def test_an_error_is_told_and_reaches_the_caller(tmp_path):
    keep = Keep()
    with pytest.raises(RuntimeError, match="in the middle"):
        fit(mlp.callbacks.as_native(keep), module=Project(fails_at=3))
    assert keep.outcome["stopped_on_error"] is True
    assert len(keep.of("done")) == 3


class Fails(Callback):
    def on_batch_training_completed(self, batch, logs):
        raise ValueError("of mine")


class Stops(Callback):
    def on_batch_training_completed(self, batch, logs):
        if logs["current"]["global_iter"] == 6:
            self.manager.stop_training()


def test_an_error_in_a_callback_reaches_the_caller():
    keep = Keep()
    with pytest.raises(ValueError, match="of mine"):
        fit(mlp.callbacks.as_native(keep, Fails()))
    assert keep.outcome["callback_calls_success"] is False


def test_a_callback_stops_the_run():
    keep = Keep()
    module, _ = fit(mlp.callbacks.as_native(Stops(), keep))
    assert len(module.seen) == 7
    assert keep.outcome["stopped_early"] is True


def test_what_callbacks_keep_is_in_lightnings_own_checkpoints(tmp_path):
    def window(*others):
        logger = mlp.callbacks.TrainingMetricsLogger(
            metric_evaluator=mlp.evaluation.MetricEvaluator(), sliding_window_length=7
        )
        keep = Windows()
        return keep, mlp.callbacks.as_native(logger, keep)

    _, native = window()
    first, trainer = fit(native, num_epochs=2)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    second, native = window()
    resumed, _ = fit(native, ckpt_path=tmp_path / "two.ckpt")
    losses, sizes = [*first.seen, *resumed.seen], [8, 8, 8, 8, 5] * NUM_EPOCHS
    assert [global_iter for global_iter, _ in second.values] == [10, 11, 12, 13, 14]
    for global_iter, value in second.values:
        of_window = slice(global_iter - 6, global_iter + 1)
        assert value == pytest.approx(np.average(losses[of_window], weights=sizes[of_window]), rel=1e-12)


class Windows(Callback):
    def __init__(self):
        self.values = []

    def on_batch_training_completed(self, batch, logs):
        current = logs["current"]
        self.values.append((current["global_iter"], logs.at("training.sliding_window.loss")))


def test_lightnings_own_checkpointing_is_as_it_was(tmp_path):
    for name, callbacks in (("alone", []), ("beside", [mlp.callbacks.as_native(Keep())])):
        fit(*callbacks, enable_checkpointing=True, default_root_dir=tmp_path / name)
    files = [
        sorted(str(p.relative_to(tmp_path / name)) for p in (tmp_path / name).rglob("*.ckpt"))
        for name in ("alone", "beside")
    ]
    assert files[0] == files[1] != []


def evaluator():
    return mlp.evaluation.MetricEvaluator(model_evaluate_func=lambda batch, **_: np.zeros(()))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (list, "needs callbacks"),
        (lambda: [pl.callbacks.Timer()], "takes mlpug's callbacks, not .*Timer.*: give it to the host trainer itself"),
        (lambda: [print], "takes mlpug's callbacks, not .*: pass callbacks of mlpug's"),
        (
            lambda: [mlp.callbacks.TrainingMetricsLogger(metric_evaluator=evaluator(), logging_mode="dataset")],
            "TrainingMetricsLogger needs the training dataset, which a native run doesn't give.*from_lightning",
        ),
        (
            lambda: [mlp.callbacks.LRSchedulerWrapper(lambda step: 1.0)],
            "LRSchedulerWrapper needs the optimizers before training starts",
        ),
        (
            lambda: [mlp.callbacks.CheckpointManager(metric_to_monitor="test.dataset.loss")],
            "CheckpointManager needs the metric path 'test.dataset.loss', which nobody writes",
        ),
        (
            lambda: [Keep(), type("Misspelled", (Callback,), {"on_epoch_end": lambda self, logs: None})()],
            "Did you mean",
        ),
    ],
)
def test_what_cant_work_is_said_when_it_is_made(make, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=message):
        mlp.callbacks.as_native(*make())


HOOKS_OF_A_STEP = ("on_before_zero_grad", "on_before_backward", "on_after_backward", "on_before_optimizer_step")


class NativeNothing(pl.Callback):
    """What Lightning calls all of whose hooks."""


def test_lightning_spends_nothing_on_the_hooks_of_a_batch_that_it_does_not_have():
    profiler = pl.profilers.SimpleProfiler()
    fit(NativeNothing(), mlp.callbacks.as_native(Keep()), profiler=profiler)
    called = {what for what in profiler.recorded_durations if what.startswith("[Callback]")}
    of_native = {what.rpartition(".")[2] for what in called if "NativeNothing" in what}
    of_ours = {what.rpartition(".")[2] for what in called if "mlpug: " in what}
    assert of_native >= {*HOOKS_OF_A_STEP, "on_train_batch_start", "on_validation_batch_end"}
    assert of_ours.isdisjoint({*HOOKS_OF_A_STEP, "on_validation_batch_start", "on_validation_batch_end"})
    assert of_ours >= {"on_train_batch_start", "on_train_batch_end", "on_train_epoch_end"}
