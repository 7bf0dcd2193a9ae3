"""A list of batches is read as batches, and told of; a list of loaders is what it is to Lightning."""

import warnings

import numpy as np
import pytest
import torch
from pytorch.native_projects import Classifier, loader, samples
from pytorch.native_runs import differences, native, ported
from torch.utils.data import DataLoader

import mlpug.pytorch as mlp
from mlpug.errors import MlpugWarning

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")

ROWS = r"of 2 arrays, and Lightning reads each as a loader of its rows"


def pairs(count=5):
    return [tuple(batch) for batch in DataLoader(samples(8 * count), batch_size=8)]


class OfDicts(Classifier):
    def loss(self, batch):
        assert batch["name"] == ["a"] * 8
        return super().loss((batch["x"], batch["y"]))


KINDS = {
    "pairs": (Classifier, pairs),
    "lists": (Classifier, lambda: [list(pair) for pair in pairs()]),
    "a tuple of pairs": (Classifier, lambda: tuple(pairs())),
    "one pair": (Classifier, lambda: pairs(1)),
    "dicts": (OfDicts, lambda: [{"x": x, "y": y, "name": ["a"] * 8} for x, y in pairs()]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_list_of_batches_trains_as_a_loader_of_them(kind):
    """Lightning itself can't: it takes every tensor for a loader."""
    make, data = KINDS[kind]
    of_lightning = native(make, lambda: DataLoader(data(), batch_size=None, collate_fn=lambda batch: batch))
    with pytest.warns(MlpugWarning, match="The training dataset is a (list|tuple) of batches, and is read as [15] bat"):
        by_mlpug = ported(make, data)
    assert differences(of_lightning, by_mlpug) == []
    assert len(by_mlpug.module.seen) == 3 * len(data())


def test_a_list_of_batches_to_validate_on():
    of_lightning = native(
        Classifier, loader, val_dataloaders=lambda: DataLoader(pairs(), batch_size=None, collate_fn=lambda pair: pair)
    )
    with pytest.warns(MlpugWarning, match="validation dataset is a list of batches, and is read as 5 batches"):
        by_mlpug = ported(Classifier, loader, val_dataloaders=pairs)
    assert differences(of_lightning, by_mlpug) == []


def test_a_resumed_run_goes_on_in_the_list(tmp_path):
    class Stop(mlp.callbacks.Callback):
        def on_batch_training_completed(self, batch, logs):
            if self.manager.global_iter == 7:
                self.manager.stop_training()

    def run(directory, *more, **options):
        saves = mlp.callbacks.CheckpointManager(directory, "run", metric_to_monitor=None)
        with pytest.warns(MlpugWarning, match="list of batches"):
            return ported(Classifier, pairs, callbacks=[*more, saves], resume_from="auto", **options)

    whole = run(tmp_path / "whole")
    first = run(tmp_path / "cut", Stop())
    second = run(tmp_path / "cut")
    assert first.module.seen + second.module.seen == whole.module.seen
    assert second.outcome["weights"] == whole.outcome["weights"]


class OfRows(Classifier):
    def training_step(self, batch, batch_idx):
        x, y = (torch.as_tensor(part) for part in batch)
        loss = ((self.net[0](x) - y) ** 2).mean()
        self.see("train", loss)
        return loss


@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize("as_array", [lambda x: x, np.asarray], ids=["tensors", "arrays"])
def test_arrays_side_by_side_are_read_by_rows_as_in_lightning_and_told_of(kind, as_array):
    def data():
        return kind(as_array(part) for part in next(iter(DataLoader(samples(6), batch_size=6))))

    with pytest.warns(MlpugWarning, match=ROWS):
        by_mlpug = ported(OfRows, data)
    assert differences(native(OfRows, data), by_mlpug) == []
    assert len(by_mlpug.module.seen) == 3 * 6


class OfPairs(Classifier):
    def loss(self, batch):
        first, second = batch
        return super().loss(first) + super().loss(second)


def test_a_list_of_loaders_is_what_it_is_to_lightning():
    def data():
        return [loader(), loader()]

    with warnings.catch_warnings(record=True) as caught:
        by_mlpug = ported(OfPairs, data)
    assert [warning for warning in caught if warning.category is MlpugWarning] == []
    assert differences(native(OfPairs, data), by_mlpug) == []
