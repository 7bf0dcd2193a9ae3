"""Whatever Trainer.fit trains on, a ported run trains on: straight it is equal by bits, stopped and resumed too."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from mlpug_lightning.ported_gradients import check_accumulation
from pytorch.native_projects import Classifier, Data, Measuring, Stream, loader, samples, val_loader
from pytorch.native_runs import differences, native, ported, same
from pytorch.test_from_lightning_resume import SHARES, Record
from pytorch.test_from_lightning_stops import BrokenError, breaking, checkpoint_in, saves
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

import mlpug.pytorch as mlp
from mlpug.errors import ConfigurationError, DatasetError, MlpugWarning


class Noisy(Dataset):
    """Draws for each sample, from torch, numpy and a generator of its own."""

    def __init__(self):
        self.samples, self.own = samples(), np.random.default_rng(3)

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        x, y = self.samples[index]
        return x + 0.1 * torch.randn(len(x)) + float(np.random.normal() + self.own.normal()) / 10, y


class OwnLoader:
    """No DataLoader; it draws for each batch."""

    def __init__(self, count=5):
        self.count = count

    def __iter__(self):
        for _ in range(self.count):
            yield torch.randn(8, 6), torch.randint(3, (8,))

    def __len__(self):
        return self.count


class NoLength(DataLoader):
    def __len__(self):
        raise NotImplementedError


class Resumable:
    """Says where it is, and goes on from there."""

    def __init__(self):
        self.at = 0

    def __iter__(self):
        while self.at < 6:
            self.at += 1
            generator = torch.Generator().manual_seed(self.at)
            yield torch.randn(8, 6, generator=generator), torch.randint(3, (8,), generator=generator)
        self.at = 0

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


class Nested(Classifier):
    """Of any nesting of loaders."""

    def loss(self, batch):
        if isinstance(batch, dict):
            return sum(map(self.loss, batch.values()))
        if isinstance(batch[0], (tuple, list, dict)):
            return sum(map(self.loss, batch))
        return super().loss(batch)

    def training_step(self, batch, batch_idx):
        self.seen.append(("batch", sum(float(leaf.sum()) for leaf in tree_leaves(batch)), 0.0))
        return super().training_step(batch, batch_idx)


class Drawing(Measuring):
    """Draws where its loaders are asked for, and in every hook before the data is drawn."""

    def configure_model(self):
        torch.rand(1)

    def on_train_start(self):
        self.see("start", float(len(self.trainer.train_dataloader.dataset)))

    def on_train_epoch_start(self):
        self.see("epoch", torch.rand(1).item())

    def train_dataloader(self):
        self.see("asked", self.trainer.current_epoch)
        x = torch.randn(40, 6)
        return DataLoader(torch.utils.data.TensorDataset(x, (x.sum(1) > 0).long()), batch_size=8, shuffle=True)

    def val_dataloader(self):
        return val_loader()


class Reading(Measuring):
    """Looks at a batch of the training loader in the middle of training."""

    def on_train_batch_start(self, batch, batch_idx):
        if batch_idx % 2:
            x, _ = next(iter(self.trainer.train_dataloader))
            self.see("looked", float(x.sum()))


def combined(mode):
    return pl.utilities.CombinedLoader([loader(), loader(batch_size=16)], mode)


WITH_VAL = {"val_dataloaders": val_loader}
RELOAD = {"reload_dataloaders_every_n_epochs": 2, "num_epochs": 5}

KINDS = {
    "drawing samples": (Classifier, lambda: DataLoader(Noisy(), batch_size=8, shuffle=True), WITH_VAL),
    "drawing workers": (Classifier, lambda: DataLoader(Noisy(), batch_size=8, shuffle=True, num_workers=2), WITH_VAL),
    "persistent workers": (Classifier, partial(loader, num_workers=2, persistent_workers=True), WITH_VAL),
    "own generator": (Classifier, lambda: loader(generator=torch.Generator().manual_seed(5)), WITH_VAL),
    "weighted": (
        Classifier,
        lambda: loader(shuffle=False, sampler=WeightedRandomSampler(torch.arange(1.0, 61.0), 40)),
        WITH_VAL,
    ),
    "nested": (
        Nested,
        lambda: {"a": [loader(), loader(batch_size=8)], "b": (loader(), loader(drop_last=True))},
        WITH_VAL,
    ),
    "nested of several lengths": (
        Nested,
        lambda: {"a": [loader(), OwnLoader(3)], "b": loader(batch_size=16)},
        WITH_VAL,
    ),
    "no DataLoader": (Nested, OwnLoader, WITH_VAL),
    "several that are no DataLoader": (Nested, lambda: [OwnLoader(), OwnLoader(2)], WITH_VAL),
    "a length that raises": (Classifier, lambda: NoLength(samples(), batch_size=8, shuffle=True), WITH_VAL),
    "min_size": (Nested, lambda: combined("min_size"), WITH_VAL),
    "max_size_cycle": (Nested, lambda: combined("max_size_cycle"), WITH_VAL),
    "a stream": (Measuring, lambda: DataLoader(Stream(), batch_size=5), WITH_VAL),
    "a stream with a limit": (
        Measuring,
        lambda: DataLoader(Stream(), batch_size=4),
        {"of_manager": {"num_batches_per_epoch": 3}, **WITH_VAL},
    ),
    "says where it is": (Nested, Resumable, WITH_VAL),
    "asked for": (Drawing, lambda: None, {}),
    "asked for again": (Drawing, lambda: None, RELOAD),
    "asked for again, validated within": (Drawing, lambda: None, {**RELOAD, "val_check_interval": 2}),
    "validation that draws": (
        Measuring,
        loader,
        {"val_dataloaders": lambda: loader(generator=torch.Generator().manual_seed(2)), "val_check_interval": 3},
    ),
    "looked at": (Reading, Data, {}),
    "some batches": (Measuring, Data, {"of_manager": {"num_batches_per_epoch": 3}}),
    "some validation": (Measuring, Data, {"limit_val_batches": 1, "num_sanity_val_steps": -1}),
    "the same batches": (Measuring, Data, {"overfit_batches": 3}),
    "accumulated": (Measuring, Data, {"accumulate_grad_batches": 3}),
    "accumulated, validated within": (Measuring, Data, {"accumulate_grad_batches": 3, "val_check_interval": 2}),
}
SAID = pytest.mark.filterwarnings(
    "ignore:Trying to infer the `batch_size`",
    "ignore:You requested to overfit",
    "ignore:Your `IterableDataset`",
    "ignore:Your `val_dataloader`'s sampler has shuffling enabled",
)


def as_native_arguments(arguments):
    """For ``Trainer.fit``."""
    given = {name: value for name, value in arguments.items() if name != "of_manager"}
    limit = arguments.get("of_manager", {}).get("num_batches_per_epoch")
    return given if limit is None else {**given, "limit_train_batches": limit}


@SHARES
@SAID
@pytest.mark.parametrize("name", KINDS)
def test_equal_to_fit_and_resumed_equal_to_not_stopped(name, tmp_path):
    make, data, arguments = KINDS[name]
    of_lightning = native(make, data, **as_native_arguments(arguments))
    record = Record(tmp_path)
    whole = ported(make, data, callbacks=[record], **arguments)
    assert differences(of_lightning, whole) == []

    in_epoch = (len(record.rests) - whole.lightning.current_epoch) // whole.lightning.current_epoch
    for place in (1, in_epoch, in_epoch + 2):  # within an epoch, at its end, and within the next
        path, num_rows = record.rests[place]
        again = Record()
        resumed = ported(make, data, callbacks=[again], resume_from=path, seed=1, **arguments)
        assert same(record.rows[num_rows:], again.rows)
        for what, value in whole.outcome.items():
            if what != "seen":
                assert same(value, resumed.outcome[what]), (place, what)


def test_loaders_that_changed_cant_be_gone_on_with_within_an_epoch(tmp_path):
    record = Record(tmp_path)
    ported(Classifier, loader, callbacks=[record], **WITH_VAL)
    path, _ = record.rests[2]
    with pytest.raises(mlp.errors.CheckpointMismatchError, match="where batch_size was 8, and it is 16 now"):
        ported(Classifier, partial(loader, batch_size=16), resume_from=path, **WITH_VAL)


def test_another_accumulation_cant_be_gone_on_with_within_an_epoch(tmp_path):
    record = Record(tmp_path)
    ported(Classifier, loader, callbacks=[record], accumulate_grad_batches=3, **WITH_VAL)
    path, _ = record.rests[2]
    with pytest.raises(mlp.errors.CheckpointMismatchError, match="with accumulate_grad_batches=3, and it is 2 now"):
        ported(Classifier, loader, resume_from=path, accumulate_grad_batches=2, **WITH_VAL)


def test_fewer_batches_than_were_asked_for_are_told_of():
    with pytest.warns(MlpugWarning, match="has 8 batches, fewer than num_batches_per_epoch=9"):
        ported(Classifier, loader, num_epochs=1, of_manager={"num_batches_per_epoch": 9}, **WITH_VAL)


def test_the_logs_say_which_batches_update():
    class Updates(mlp.callbacks.Callback):
        def __init__(self):
            self.updates = []

        def on_batch_training_completed(self, batch, logs):
            self.updates.append(logs.at("training.batch.did_update_model"))

    updates = Updates()
    ported(Classifier, loader, num_epochs=1, callbacks=[updates], accumulate_grad_batches=3, **WITH_VAL)
    assert updates.updates == [False, False, True, False, False, True, False, True]


def test_a_scheduler_of_accumulation(tmp_path):
    def scheduler():
        return pl.callbacks.GradientAccumulationScheduler({0: 2, 1: 3})

    of_lightning = native(Measuring, Data, callbacks=[scheduler()])
    record = Record(tmp_path)
    assert differences(of_lightning, ported(Measuring, Data, callbacks=[scheduler(), record])) == []
    path, num_rows = record.rests[10]
    again = Record()
    resumed = ported(Measuring, Data, callbacks=[scheduler(), again], resume_from=path)
    assert same(record.rows[num_rows:], again.rows)
    assert same(resumed.outcome["weights"], of_lightning.outcome["weights"])


def test_an_error_while_gradients_are_accumulated(tmp_path):
    class BreaksError(Exception):
        pass

    class Breaks(Measuring):
        at, count = None, 0

        def on_after_backward(self):
            self.count += 1
            if self.count == self.at:
                raise BreaksError

    class BreaksNow(Breaks):
        at = 5  # the second batch of an update

    def saving():
        return mlp.callbacks.CheckpointManager(
            tmp_path, "run", metric_to_monitor=None, create_checkpoint_every=1000, allow_checkpointing_at_start=False
        )

    whole = ported(Breaks, Data, accumulate_grad_batches=3)
    with pytest.raises(BreaksError):
        ported(BreaksNow, Data, callbacks=[saving()], accumulate_grad_batches=3)
    path = tmp_path / "run-training-checkpoint.safetensors"
    resumed = ported(Breaks, Data, resume_from=path, accumulate_grad_batches=3)
    for what in ("weights", "optimizers", "steps", "shown", "random"):
        assert same(whole.outcome[what], resumed.outcome[what]), what


@pytest.mark.filterwarnings("ignore:Total length of .* across ranks is zero")
def test_loaders_without_batches():
    class Empty(Data):
        def train_dataloader(self):
            return DataLoader([], batch_size=2)

    with pytest.raises(DatasetError, match="its loaders have no batches"):
        ported(Classifier, Empty)


def test_a_list_of_dataloaders_of_a_training_model_isnt_moved_on_by_who_looks():
    class Looks(pl.Callback):
        def __init__(self):
            self.looked = []

        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.looked.append(next(iter(trainer.train_dataloader))[0].item())

    class TrainModel(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.seen = torch.nn.Linear(1, 1), []

        def forward(self, batch_data, evaluate_settings, inference_mode=None):
            self.seen.append(batch_data[0].item())
            return self.layer(batch_data).mean()

    model, looks = TrainModel(), Looks()
    trainer = mlp.trainers.DefaultTrainer(torch.optim.SGD(model.parameters(), 0.1), model, accelerator="cpu")
    trainer.set_training_model(model)
    data = DataLoader(torch.arange(8.0).reshape(8, 1), batch_size=2)
    mlp.trainers.TrainingManager(trainer, data, num_epochs=2, callbacks=[looks]).start_training()
    assert model.seen == [0.0, 2.0, 4.0, 6.0] * 2
    assert looks.looked == [0.0] * 8


def test_several_processes_that_accumulate_keep_no_checkpoints():
    one, two = (
        SimpleNamespace(accumulate_grad_batches=2, world_size=1),
        SimpleNamespace(accumulate_grad_batches=2, world_size=2),
    )
    with pytest.raises(ConfigurationError, match="each process has gradients of its own"):
        check_accumulation(two, keeps_states=True)
    check_accumulation(two, keeps_states=False)
    check_accumulation(one, keeps_states=True)


ERRORS = {
    "drawing samples": (Classifier, lambda: DataLoader(Noisy(), batch_size=8, shuffle=True), WITH_VAL, 8),
    "with a seed": (
        Classifier,
        lambda: DataLoader(Noisy(), batch_size=8, shuffle=True),
        {"of_manager": {"seed": 5}, **WITH_VAL},
        8,
    ),
    "a stream": (Measuring, lambda: DataLoader(Stream(), batch_size=5), WITH_VAL, 5),
    "a stream with a seed": (
        Measuring,
        lambda: DataLoader(Stream(), batch_size=5),
        {"of_manager": {"seed": 5}, **WITH_VAL},
        5,
    ),
    "says where it is": (Nested, Resumable, WITH_VAL, 6),
}


@SHARES
@SAID
@pytest.mark.parametrize("name", ERRORS)
def test_what_an_error_left_unfinished_is_drawn_as_it_was(name, tmp_path):
    make, data, arguments, num_batches = ERRORS[name]

    def run(at, **options):
        return ported(breaking(make, "after the step", at), data, **options, **arguments)

    whole = run(None)
    for at in (2, num_batches, num_batches + 1):  # in the middle, and the last and the first of an epoch
        folder = tmp_path / str(at)
        with pytest.raises(BrokenError):
            run(at, callbacks=[saves(folder)])
        resumed = run(None, resume_from=checkpoint_in(folder))
        for what in ("weights", "optimizers", "steps", "shown", "random"):
            assert same(whole.outcome[what], resumed.outcome[what]), (at, what)
