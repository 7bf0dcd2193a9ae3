"""Metrics that hold more than the state that they declare go on in a resumed run, and are undone after an error."""

import pytest
import torchmetrics
from pytorch.native_projects import NUM_CLASSES, Classifier, Data
from pytorch.native_runs import ported, same
from torch import nn

import mlpug.pytorch as mlp
from mlpug import checkpoints

AT = 11  # whole batches, of two epochs of 8


class BrokenError(Exception):
    pass


def accuracy():
    return torchmetrics.Accuracy("multiclass", num_classes=NUM_CLASSES)


class Extremes(torchmetrics.MinMaxMetric):
    """A class of the script's own, whose attributes an installed one has."""


class Wrapped(Classifier):
    """Each wrapper in both loops; what each says is logged at the end of an epoch, and seen in each batch."""

    breaks_at = None

    def __init__(self):
        super().__init__()
        self.of_training, self.of_validation = nn.ModuleDict(self.make()), nn.ModuleDict(self.make())

    @staticmethod
    def make():
        collection = torchmetrics.MetricCollection({"one": accuracy(), "other": accuracy().clone()})
        return {
            "tracker": torchmetrics.MetricTracker(accuracy(), maximize=True),
            "of several": torchmetrics.MetricTracker(collection.clone(), maximize=[True, True]),
            "extremes": torchmetrics.MinMaxMetric(accuracy()),
            "running": torchmetrics.wrappers.Running(torchmetrics.MeanMetric(), window=3),
            "own": Extremes(accuracy()),
            "collection": collection,
        }

    def look(self, metrics, batch):
        x, y = batch
        output = self.net(x).detach()
        for name, metric in metrics.items():
            metric.update(*((output.mean(),) if name == "running" else (output, y)))
        for name in ("extremes", "running", "own"):
            result = metrics[name].compute()
            self.seen.append((name, *(float(each) for each in (result.values() if type(result) is dict else [result]))))

    def sum_up(self, metrics, name):
        for each in ("tracker", "of several"):
            best = metrics[each].best_metric()
            self.log(f"{name}_{each}", float(best if each == "tracker" else best["one"]))
        self.log(f"{name}_extremes", metrics["extremes"].compute()["max"])
        self.log(f"{name}_one", metrics["collection"].compute()["one"])
        metrics["collection"].reset()

    def on_train_epoch_start(self):
        for name in ("tracker", "of several"):
            self.of_training[name].increment()

    def training_step(self, batch, batch_idx):
        self.look(self.of_training, batch)
        if self.breaks_at == self.trainer.global_step:
            raise BrokenError
        return super().training_step(batch, batch_idx)

    def on_train_epoch_end(self):
        self.sum_up(self.of_training, "training")

    def on_validation_epoch_start(self):
        for name in ("tracker", "of several"):
            self.of_validation[name].increment()

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.look(self.of_validation, batch)
        super().validation_step(batch, batch_idx, dataloader_idx)

    def on_validation_epoch_end(self):
        self.sum_up(self.of_validation, "validation")


class Keep(mlp.callbacks.Callback):
    """The state of each rest."""

    def __init__(self, folder):
        self.folder, self.paths = folder, []

    def on_rest(self, logs, is_last):
        if not is_last:
            self.paths.append(self.folder / f"{len(self.paths)}.safetensors")
            checkpoints.save(self.paths[-1], self.manager.get_state())


def broken():
    module = Wrapped()
    module.breaks_at = AT
    return module


def assert_goes_on(whole, resumed):
    assert resumed.module.seen
    assert same(whole.module.seen[len(whole.module.seen) - len(resumed.module.seen) :], resumed.module.seen)
    assert same(whole.outcome["shown"], resumed.outcome["shown"])


NOT_CHECKED = {"num_sanity_val_steps": 0}


def test_wrappers_go_on_from_every_rest(tmp_path):
    keep = Keep(tmp_path)
    whole = ported(Wrapped, Data, 2, callbacks=[keep], **NOT_CHECKED)
    for path in keep.paths[3:-1:4]:
        assert_goes_on(whole, ported(Wrapped, Data, 2, resume_from=path, **NOT_CHECKED))


def test_what_a_step_told_wrappers_is_undone(tmp_path):
    saves = mlp.callbacks.CheckpointManager(tmp_path, "run", metric_to_monitor=None, create_checkpoint_every=1000)
    with pytest.raises(BrokenError):
        ported(broken, Data, 2, callbacks=[saves], **NOT_CHECKED)
    path = tmp_path / "run-training-checkpoint.safetensors"
    assert checkpoints.load(path)["run"]["batches_done"] == AT
    assert_goes_on(ported(Wrapped, Data, 2, **NOT_CHECKED), ported(Wrapped, Data, 2, resume_from=path, **NOT_CHECKED))
