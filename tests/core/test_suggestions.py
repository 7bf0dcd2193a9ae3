"""A misspelt name is answered with the one that was meant, where there is one that is like it."""

from types import SimpleNamespace

import numpy as np
import pytest

from mlpug.callbacks import Callback, CheckpointManager, LogProgress, ProgressBar, Tensorboard
from mlpug.callbacks.native_names import check_monitors
from mlpug.errors import ConfigurationError
from mlpug.trainers.callback_list import check_known_names

DATASET = [np.ones(1)]


class Writes(Callback):
    def metric_paths(self):
        return [
            "training.batch.loss",
            "training.sliding_window.loss",
            "validation.dataset.loss",
            "validation.dataset.f1",
        ]


@pytest.mark.parametrize(
    ("make", "meant"),
    [
        (lambda tmp_path: LogProgress(set_names=["training", "validaton"]), "validation"),
        (lambda tmp_path: Tensorboard("run", ["training.bach.loss"], directory=tmp_path), "training.batch.loss"),
        (lambda tmp_path: ProgressBar(["training.sliding_windw.loss"]), "training.sliding_window.loss"),
        (lambda tmp_path: CheckpointManager(tmp_path, metric_to_monitor="validation.f1"), "validation.dataset.f1"),
        (lambda tmp_path: CheckpointManager(tmp_path, metric_to_monitor="val_f1"), "validation.dataset.f1"),
        (
            lambda tmp_path: CheckpointManager(tmp_path, metric_to_monitor="validaton.dataset.loss"),
            "validation.dataset.loss",
        ),
        (lambda tmp_path: LogProgress(set_names=["training_prams"]), "training_params"),
        (lambda tmp_path: LogProgress(set_names=["test"]), None),
        (lambda tmp_path: ProgressBar(["training.batch.accuracy"]), None),
    ],
)
def test_a_misspelt_name_or_path_gets_the_one_that_was_meant(make_manager, tmp_path, make, meant):
    with pytest.raises(ConfigurationError, match="which nobody writes") as raised:
        make_manager(DATASET, [Writes(), make(tmp_path)])
    message = str(raised.value)
    assert ("Did you mean" in message) == (meant is not None)
    assert f"nobody writes. Did you mean {meant}? Written are " in message or meant is None


@pytest.mark.parametrize(
    ("path", "meant"),
    [("validation.dataset.acuracy", "validation.dataset.accuracy"), ("validation.dataset.f1", None)],
)
def test_once_the_host_has_told_its_names_one_of_them_may_be_meant(tmp_path, path, meant):
    callback = CheckpointManager(tmp_path, metric_to_monitor=path)
    with pytest.raises(ConfigurationError) as raised:
        check_known_names([callback], "validation.dataset", ["loss", "accuracy"])
    assert ("Did you mean" in str(raised.value)) == (meant is not None)
    assert meant is None or f"Did you mean {meant}?" in str(raised.value)


@pytest.mark.parametrize(
    ("monitor", "meant"),
    [("val_los", "val_loss"), ("validaton.dataset.loss", "validation.dataset.loss"), ("accuracy", None)],
)
def test_a_misspelt_monitor_of_a_native_callback_gets_the_one_that_was_meant(monitor, meant):
    with pytest.raises(ConfigurationError) as raised:
        check_monitors([SimpleNamespace(monitor=monitor)], ["loss"], ["validation.dataset.loss"], [])
    assert ("Did you mean" in str(raised.value)) == (meant is not None)
    assert meant is None or f"Did you mean {meant}?" in str(raised.value)
