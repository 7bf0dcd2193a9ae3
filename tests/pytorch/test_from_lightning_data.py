"""The data of a Lightning project is handed over as it is, and is as it was when training has ended."""

import pytest
import pytorch_lightning as pl
import torch
from pytorch.native_projects import Classifier, Data, Stream, loader, val_loader
from pytorch.native_runs import begin, differences, native, ported
from torch.utils.data import DataLoader

import mlpug.pytorch as mlp
from mlpug.errors import ConfigurationError


class Telling(Data):
    """Tells what is asked of it."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def prepare_data(self):
        self.calls.append("prepare_data")

    def setup(self, stage):
        self.calls.append(f"setup {stage}")
        super().setup(stage)

    def train_dataloader(self):
        self.calls.append("train_dataloader")
        return super().train_dataloader()

    def val_dataloader(self):
        self.calls.append("val_dataloader")
        return super().val_dataloader()

    def teardown(self, stage):
        self.calls.append(f"teardown {stage}")


class WithLoaders(Classifier):
    """A module with data of its own."""

    def prepare_data(self):
        self.calls = ["prepare_data"]

    def setup(self, stage):
        self.calls.append(f"setup {stage}")
        self.data = Data()
        self.data.setup(stage)

    def train_dataloader(self):
        self.calls.append("train_dataloader")
        return self.data.train_dataloader()

    def val_dataloader(self):
        self.calls.append("val_dataloader")
        return self.data.val_dataloader()


def manager_of(module, data, **arguments):
    trainer = mlp.trainers.DefaultTrainer.from_lightning(module, accelerator="cpu", **arguments)
    return mlp.trainers.TrainingManager(trainer, data, num_epochs=2)


def test_a_data_module_is_asked_once_for_everything_and_left_as_it_was():
    alone, ours = Telling(), Telling()
    before = set(vars(ours))
    of_lightning = native(Classifier, lambda: alone)
    assert differences(of_lightning, ported(Classifier, lambda: ours)) == []
    assert sorted(ours.calls) == sorted(alone.calls)
    assert [call for call in ours.calls if call != "train_dataloader"] == [
        call for call in alone.calls if call != "train_dataloader"
    ]
    own = {"train_dataloader", "prepare_data", "setup", "val_dataloader"}
    assert own & set(vars(ours)) == own & before == set()


def test_a_module_with_loaders_of_its_own():
    of_lightning = native(WithLoaders, lambda: None)
    by_mlpug = ported(WithLoaders, lambda: None)
    assert differences(of_lightning, by_mlpug) == []
    assert sorted(by_mlpug.module.calls) == sorted(of_lightning.module.calls)
    assert not {"train_dataloader", "prepare_data", "setup"} & set(vars(by_mlpug.module))


@pytest.mark.parametrize("of", [WithLoaders, Telling])
def test_the_method_stands_for_its_holder(of):
    whole = native(of, lambda: None) if of is WithLoaders else native(Classifier, Telling)
    begin(seed=1)
    module = of() if of is WithLoaders else Classifier()
    holder = module if of is WithLoaders else Telling()
    trainer = mlp.trainers.DefaultTrainer.from_lightning(module, accelerator="cpu")
    mlp.trainers.TrainingManager(trainer, holder.train_dataloader, num_epochs=3).start_training()
    assert module.seen == whole.module.seen


def test_loaders_for_training_and_for_validation():
    runs = [run(Classifier, loader, val_dataloaders=val_loader) for run in (native, ported)]
    assert differences(*runs) == []
    assert any(what[0] == "val" for what, *_ in runs[1].module.seen if isinstance(what, tuple))


def test_a_data_module_serves_two_runs():
    def twice(run):
        data = Telling()
        seen = [run(Classifier, lambda: data).module.seen for _ in range(2)]
        return seen, data.calls.count("prepare_data"), sum(call.startswith("setup") for call in data.calls)

    seen, *calls = twice(ported)
    assert seen == twice(native)[0]
    assert calls == [2, 2]


def test_a_module_that_asks_its_data_module():
    class Asking(Classifier):
        def on_train_start(self):
            self.see("samples", len(self.trainer.datamodule.train))
            self.see("batches", self.trainer.num_training_batches)
            self.see("steps", self.trainer.estimated_stepping_batches)
            self.see("epochs", self.trainer.max_epochs)

    assert differences(native(Asking, Data), ported(Asking, Data)) == []


def test_the_trainer_gives_the_training_loader():
    class Asking(Classifier):
        def on_train_start(self):
            self.see("batches", len(self.trainer.train_dataloader))
            self.see("batch size", self.trainer.train_dataloader.batch_size)
            self.see("samples", len(self.trainer.train_dataloader.dataset))

    assert differences(native(Asking, Data), ported(Asking, Data)) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda module: manager_of(module, Data(), val_dataloaders=val_loader()), "can't be given beside a DataModule"),
        (lambda module: manager_of(module, module), "Classifier has no train_dataloader"),
        (lambda module: manager_of(module, pl.LightningDataModule()), "LightningDataModule has no train_dataloader"),
        (lambda module: manager_of(module, Data().val_dataloader), "must be its train_dataloader, or it itself"),
        (
            lambda module: manager_of(module, pl.utilities.CombinedLoader([loader()], "sequential")),
            "one after the other: choose",
        ),
        (lambda module: manager_of(module, Data), "not the class Data"),
    ],
)
def test_data_that_cant_be_trained_on(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make(Classifier())


def test_a_data_module_whose_hook_moves_batches():
    class Moving(Data):
        def on_before_batch_transfer(self, batch, dataloader_idx):
            return [batch[0] + 1, batch[1]]

        def transfer_batch_to_device(self, batch, device, dataloader_idx):
            return [batch[0] * 2, batch[1]]

        def on_after_batch_transfer(self, batch, dataloader_idx):
            return [batch[0] - 1, batch[1]]

        def predict_dataloader(self):
            return DataLoader(self.val)

    assert differences(native(Classifier, Moving), ported(Classifier, Moving)) == []


def test_a_stream_whose_epochs_are_given_a_length_has_none_itself_for_lightning():
    def stream():
        return torch.utils.data.DataLoader(Stream(), batch_size=4, num_workers=2)

    of_manager = {"num_batches_per_epoch": 3}
    trained = ported(Classifier, stream, 2, val_dataloaders=val_loader, of_manager=of_manager)
    assert len([what for (what, *_), _, _ in trained.module.seen if what == "train"]) == 2 * 3
