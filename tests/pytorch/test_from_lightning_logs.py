"""What a LightningModule logs is in mlpug's logs by the same names, and is read when somebody reads it."""

import pytest
import pytorch_lightning as pl
import torch
from contract.backends.lightning import LightningBackend
from pytorch.native_projects import Adversarial, Classifier, Data, Measuring, Sometimes, loader, val_loader
from pytorch.native_runs import native, ported

import mlpug.pytorch as mlp

NOBODY_READS = 5  # batches, after the first


class Read(mlp.callbacks.Callback):
    def __init__(self):
        self.batches, self.validations, self.epochs = [], [], []

    def on_batch_training_completed(self, batch, logs):
        self.batches.append(dict(logs["current"]["training"]["batch"]))

    def on_epoch_completed(self, logs):
        self.epochs.append(dict(logs["current"]["training"]["epoch"]))
        self.validations.append(dict(logs["current"]["validation"]["dataset"]))


class Shown(pl.Callback):
    """What Lightning's own callbacks are shown; rows by the names without the suffixes of forked ones."""

    def __init__(self):
        self.batches, self.validations, self.epochs = [], [], []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        shown = trainer.callback_metrics
        steps = {name.removesuffix("_step"): value for name, value in shown.items() if name.endswith("_step")}
        self.batches.append({name: value.item() for name, value in steps.items()})

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            shown = trainer.callback_metrics.items()
            of_validation = {name: value.item() for name, value in shown if name.startswith("val")}
            self.validations.append({n: v for n, v in of_validation.items() if not n.endswith("_epoch")})


def test_steps_and_validations_are_what_lightning_shows():
    shown, read = Shown(), Read()
    native(Measuring, Data, callbacks=[shown])
    trained = ported(Measuring, Data, callbacks=[read])
    assert read.validations == shown.validations
    assert set(read.validations[0]) == {"val/accuracy", "val/loss", "val/most", "val/drawn"}
    of_steps = [{name: row[name] for name in shown.batches[0]} for row in read.batches]
    assert of_steps == shown.batches
    assert set(read.batches[0]) == {"loss", "train/accuracy", "train/loss", "smallest", "did_update_model"}
    assert [row["loss"] for row in read.batches] == [row["train/loss"] for row in read.batches]
    assert trained.manager.logs.at("validation.dataset.val/loss") == read.validations[-1]["val/loss"]


def test_epochs_are_what_lightning_shows_in_the_end():
    read = Read()
    trained = native(Measuring, Data)
    ported(Measuring, Data, callbacks=[read])
    shown = {name: value.item() for name, value in trained.lightning.callback_metrics.items()}
    names = ["train/accuracy", "train/loss", "count", "largest", "smallest", "noise"]
    expected = {name: shown[f"{name}_epoch"] if f"{name}_epoch" in shown else shown[name] for name in names}
    assert read.epochs[-1] == expected
    assert expected["count"] == 63.0


def test_two_losses_of_manual_optimization():
    read = Read()
    trained = ported(Adversarial, Data, callbacks=[read])
    critic = [value for name, value in trained.module.seen if name == "critic"]
    assert [row["critic"] for row in read.batches] == critic
    assert [row["generator"] for row in read.batches] == [v for name, v in trained.module.seen if name == "generator"]
    assert all(row["did_update_model"] for row in read.batches)
    assert trained.manager.logs.at("training_params.batch.lr").keys() == {"optimizer_0", "optimizer_1"}


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_step_without_a_loss_updates_nothing_and_the_rest_of_a_dict_is_kept():
    outputs = []

    class Outputs(mlp.callbacks.Callback):
        def on_batch_training_completed(self, batch, logs):
            outputs.append((logs.at("training.batch.did_update_model"), self.manager.step_output))

    ported(Sometimes, Data, num_epochs=1, callbacks=[Outputs()])
    assert [moved for moved, _ in outputs] == [index % 3 != 1 for index in range(8)]
    for moved, output in outputs:
        if moved:
            assert output.auxiliary_results == {"extra": output.loss * 2, "about": "this"}
            assert not output.auxiliary_results["extra"].requires_grad
        else:
            assert output.num_samples == 0


def test_several_validations_in_an_epoch_are_seen_one_after_the_other():
    class Follow(mlp.callbacks.Callback):
        def __init__(self):
            self.seen = []

        def on_batch_training_start(self, batch, logs):
            self.seen.append(logs.at("validation.dataset.val_loss"))

    follow, shown = Follow(), Shown()
    native(Classifier, Data, num_epochs=1, callbacks=[shown], val_check_interval=3)
    ported(Classifier, Data, num_epochs=1, callbacks=[follow], val_check_interval=3)
    first, second = (row["val_loss"] for row in shown.validations)
    assert follow.seen == [None] * 3 + [first] * 3 + [second] * 2


def test_each_validation_loader_has_values_of_its_own():
    read, shown = Read(), Shown()

    class OfTwo(Classifier):
        def validation_step(self, batch, batch_idx, dataloader_idx):
            self.log("val_loss", self.loss(batch) * (1 + dataloader_idx))

    def loaders():
        return [val_loader(), val_loader()]

    native(OfTwo, loader, callbacks=[shown], val_dataloaders=loaders)
    ported(OfTwo, loader, callbacks=[read], val_dataloaders=loaders)
    assert set(read.validations[0]) == {"val_loss/dataloader_idx_0", "val_loss/dataloader_idx_1"}
    assert read.validations == shown.validations


class Count(mlp.callbacks.Callback):
    """How many values have reached Python between the end of the first batch and that of a later one."""

    def __init__(self, transfers):
        self.transfers, self.counts = transfers, []

    def on_batch_training_completed(self, batch, logs):
        self.counts.append(len(self.transfers))


class Silent(Measuring):
    """Reads no loss itself."""

    def see(self, what, value):
        pass


def test_nothing_reaches_the_host_that_nobody_reads():
    def counts_of(run, make_callback):
        with LightningBackend().transfers() as transfers:
            callback = make_callback(transfers)
            run(Silent, loader, num_epochs=1, callbacks=[callback], val_dataloaders=val_loader)
        return [later - earlier for earlier, later in zip(callback.counts, callback.counts[1:], strict=False)]

    class NativeCount(pl.Callback):
        def __init__(self, transfers):
            self.transfers, self.counts = transfers, []

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            self.counts.append(len(self.transfers))

    assert counts_of(ported, Count)[:NOBODY_READS] == counts_of(native, NativeCount)[:NOBODY_READS]


def test_an_evaluator_uses_validation_step():
    class Evaluated(Classifier):
        def validation_step(self, batch, batch_idx):
            loss = self.loss(batch)
            self.log("val_loss", loss)
            return {"loss": loss, "auxiliary_results": self.net(batch[0])}

    pl.seed_everything(1, verbose=False)
    module, data, validation = Evaluated(), loader(), val_loader()
    held = list(validation)
    trainer = mlp.trainers.DefaultTrainer.from_lightning(module, accelerator="cpu", val_dataloaders=validation)
    evaluator = mlp.evaluation.MetricEvaluator(
        trainer=trainer,
        metrics={
            "accuracy": mlp.evaluation.Metric(
                lambda batch, output: (output.auxiliary_results.argmax(1), batch[1]),
                lambda pairs: float((pairs[0] == pairs[1]).mean()),
            )
        },
    )
    metrics = mlp.callbacks.TestMetricsLogger(held, "held", metric_evaluator=evaluator, batch_level=False)
    manager = mlp.trainers.TrainingManager(trainer, data, callbacks=[metrics])
    manager.start_training()
    module.eval()
    with torch.no_grad():
        x, y = (torch.cat(parts) for parts in zip(*held, strict=True))
        loss = torch.nn.functional.cross_entropy(module.net(x), y).item()
    assert abs(manager.logs.at("held.dataset.loss") - loss) < 1e-6
    assert abs(manager.logs.at("held.dataset.loss") - manager.logs.at("validation.dataset.val_loss")) < 1e-6
    assert manager.logs.at("held.dataset.accuracy") == (module.net(x).argmax(1) == y).double().mean().item()
