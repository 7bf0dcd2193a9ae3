"""A LightningModule trained by mlpug is what Lightning alone would have made of it, bit by bit."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from pytorch.native_projects import (
    Adversarial,
    Classifier,
    Data,
    Hooks,
    Late,
    Measuring,
    OwnSchedule,
    Quasi,
    Sometimes,
    Stream,
    WithSchedules,
    loader,
    val_loader,
)
from pytorch.native_runs import begin, differences, native, ported
from torch.optim import lr_scheduler as schedules

import mlpug.pytorch as mlp


def step_and_epoch(optimizer):
    return [optimizer], [
        {"scheduler": schedules.ExponentialLR(optimizer, 0.99), "interval": "step", "frequency": 2},
        {"scheduler": schedules.StepLR(optimizer, 1, 0.8), "interval": "epoch"},
    ]


def every_second_epoch(optimizer):
    return {
        "optimizer": optimizer,
        "lr_scheduler": {"scheduler": schedules.ExponentialLR(optimizer, 0.5), "frequency": 2},
    }


def plateau(optimizer, **options):
    schedule = schedules.ReduceLROnPlateau(optimizer, patience=0, factor=0.5, threshold=0.2)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "monitor": "val_loss", **options}}


def one_cycle(optimizer):
    schedule = schedules.OneCycleLR(optimizer, 0.1, total_steps=100)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def cosine(optimizer):
    return [optimizer], [schedules.CosineAnnealingWarmRestarts(optimizer, 2)]


ENDS_EARLY = pytest.mark.filterwarnings("ignore:The training dataset ended after 4 batches in epoch 1")  # a hook does

PROJECTS = {
    "plain": Classifier,
    "metrics": Measuring,
    "by step and by epoch": partial(WithSchedules, step_and_epoch),
    "every second epoch": partial(WithSchedules, every_second_epoch),
    "plateau": partial(WithSchedules, plateau),
    "one cycle": partial(WithSchedules, one_cycle),
    "cosine": partial(WithSchedules, cosine),
    "hooks": Hooks,
    "no loss now and then": Sometimes,
    "LBFGS": Quasi,
    "late": Late,
    "steps its schedule": OwnSchedule,
    "adversarial": Adversarial,
}


@ENDS_EARLY
@pytest.mark.parametrize("name", PROJECTS)
def test_a_project_trains_as_by_lightning_alone(name):
    assert differences(native(PROJECTS[name], Data), ported(PROJECTS[name], Data)) == []


@pytest.mark.parametrize(
    "arguments", [{"gradient_clip_val": 0.5}, {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"}], ids=str
)
def test_gradients_are_clipped(arguments):
    clipped = native(Measuring, Data, **arguments)
    assert differences(clipped, ported(Measuring, Data, **arguments)) == []
    assert differences(clipped, native(Measuring, Data)) != []


@ENDS_EARLY
@pytest.mark.filterwarnings("ignore:You requested to overfit")
@pytest.mark.parametrize(
    "arguments",
    [
        {"val_check_interval": 3},
        {"val_check_interval": 0.5},
        {"val_check_interval": 5, "check_val_every_n_epoch": None},
        {"check_val_every_n_epoch": 2},
        {"num_sanity_val_steps": 0},
        {"num_sanity_val_steps": -1},
        {"limit_val_batches": 1},
        {"limit_val_batches": 0},
        {"overfit_batches": 3},
        {"precision": "bf16-mixed"},
        {"precision": "64-true"},
        {"deterministic": True},
        {"detect_anomaly": True},
        {"inference_mode": False},
        {"fast_dev_run": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["metrics", "hooks"])
def test_lightnings_arguments_do_what_they_do(name, arguments):
    make = PROJECTS[name]
    assert differences(native(make, Data, **arguments), ported(make, Data, **arguments)) == []


@pytest.mark.filterwarnings("ignore:ReduceLROnPlateau conditioned on metric val_loss which is not available")
@pytest.mark.parametrize("options", [{"interval": "step", "frequency": 3}, {"interval": "step", "strict": False}, {}])
def test_a_schedule_that_monitors_within_an_epoch(options):
    make = partial(WithSchedules, partial(plateau, **options))
    arguments = {"val_check_interval": 3}
    assert differences(native(make, Data, **arguments), ported(make, Data, **arguments)) == []


def lists():
    return [loader(batch_size=16), loader(batch_size=8)]


class OfTwo(Classifier):
    def loss(self, batch):
        if isinstance(batch, dict):
            return super().loss(batch["a"]) + super().loss(batch["b"])
        return sum(super(OfTwo, self).loss(part) for part in batch) if isinstance(batch[0], (tuple, list)) else None

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", super().loss(batch))


DATA = {
    "shuffled": loader,
    "in order": partial(loader, shuffle=False),
    "workers": partial(loader, num_workers=2),
    "persistent workers": partial(loader, num_workers=2, persistent_workers=True),
    "own generator": lambda: loader(generator=torch.Generator().manual_seed(5)),
    "stream": lambda: torch.utils.data.DataLoader(Stream(), batch_size=5),
    "stream by workers": lambda: torch.utils.data.DataLoader(Stream(), batch_size=5, num_workers=2),
    "last one left out": partial(loader, drop_last=True),
}


@ENDS_EARLY
@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("project", ["metrics", "hooks"])
def test_loaders(name, project):
    runs = [run(PROJECTS[project], DATA[name], val_dataloaders=val_loader) for run in (native, ported)]
    assert differences(*runs) == []


@pytest.mark.parametrize(
    "data",
    [lists, lambda: tuple(lists()), lambda: dict(zip("ab", lists(), strict=True))],
    ids=["list", "tuple", "dict"],
)
def test_several_loaders(data):
    assert differences(*[run(OfTwo, data, val_dataloaders=val_loader) for run in (native, ported)]) == []


@pytest.mark.parametrize("mode", ["min_size", "max_size", "max_size_cycle"])
def test_a_combined_loader(mode):
    class OfSome(OfTwo):
        def loss(self, batch):
            return sum(Classifier.loss(self, part) for part in batch if part is not None)

    def data():
        return pl.utilities.CombinedLoader(lists(), mode)

    assert differences(*[run(OfSome, data, val_dataloaders=val_loader) for run in (native, ported)]) == []


def test_several_validation_loaders():
    def loaders():
        return [val_loader(), val_loader()]

    runs = [run(Classifier, loader, val_dataloaders=loaders) for run in (native, ported)]
    assert differences(*runs) == []


def test_callbacks_of_the_module_and_of_the_list(tmp_path):
    def callbacks(folder):
        checkpoint = pl.callbacks.ModelCheckpoint(folder, monitor="val_loss", filename="{epoch}-{step}-{val_loss:.6f}")
        return pl.callbacks.EarlyStopping("val_loss", patience=2, min_delta=10.0), checkpoint

    for where in ("module", "list"):
        outcomes, files = [], []
        for run in (partial(native, enable_checkpointing=True), ported):
            folder = tmp_path / f"{where} {len(files)}"
            made = callbacks(folder)
            in_module, in_list = (made, ()) if where == "module" else ((), made)
            outcomes.append(run(partial(Late, in_module), Data, num_epochs=12, callbacks=in_list))
            files.append([path.name for path in folder.iterdir()])
        assert differences(*outcomes) == []
        assert outcomes[0].lightning.current_epoch == 3
        assert files[0] == files[1]


def test_a_trainer_that_is_given():
    whole = native(Classifier, Data, gradient_clip_val=0.5)
    given = pl.Trainer(
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        gradient_clip_val=0.5,
        max_epochs=99,
        accelerator="cpu",
    )
    begin(seed=1)
    module = Classifier()
    trainer = mlp.trainers.DefaultTrainer.from_lightning(module, lightning_trainer=given)
    mlp.trainers.TrainingManager(trainer, Data(), num_epochs=3).start_training()
    assert module.seen == whole.module.seen


def test_the_length_of_an_epoch_is_the_managers():
    whole = native(Measuring, Data, limit_train_batches=3)
    assert differences(whole, ported(Measuring, Data, of_manager={"num_batches_per_epoch": 3})) == []
