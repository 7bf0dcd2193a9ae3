"""The names under which native callbacks find mlpug's metrics, and what they are shown."""

import copy
from types import SimpleNamespace

import pytest

from mlpug.callbacks import TestMetricsLogger
from mlpug.callbacks.native_names import NativeLogs, by_native_name, check_monitors, native_name
from mlpug.errors import ConfigurationError
from mlpug.logs import Lazy, Logs
from mlpug.testing import FakeNativeCallback, GradientDescent, LinearRegression, fake_trainer
from mlpug.trainers import TrainingManager


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("validation.dataset.loss", "val_loss"),
        ("test.dataset.accuracy", "test_accuracy"),
        ("training.dataset.accuracy", "accuracy"),
        ("training.epoch.loss", "loss"),
        ("training.sliding_window.loss", "loss"),
        ("training.batch.loss", "loss"),
        ("training.batch.did_update_model", None),
        ("training.other.loss", None),
        ("validation.batch.loss", None),
        ("validation.sliding_window.loss", None),
        ("training_params.batch.lr", None),
        ("epoch", None),
        ("validation.dataset", None),
    ],
)
def test_a_path_has_one_native_name_or_none(path, name):
    assert native_name(path) == name


def test_of_training_the_widest_level_that_is_there_has_the_name():
    levels = ["batch", "sliding_window", "epoch", "dataset"]
    paths = [f"training.{level}.loss" for level in levels]
    for count in range(1, 5):
        assert by_native_name(paths[:count]) == {"loss": paths[count - 1]}
    assert by_native_name(["training.batch.f1", "training.dataset.loss"]) == {
        "f1": "training.batch.f1",
        "loss": "training.dataset.loss",
    }


class Counting:
    """Lazy values that count how often they are computed."""

    def __init__(self):
        self.computed = []

    def __call__(self, name, value):
        return Lazy(lambda: self.computed.append(name) or value)


@pytest.fixture
def lazy():
    return Counting()


@pytest.fixture
def logs(lazy):
    training = Logs(
        batch=Logs(loss=lazy("batch loss", 3.0), did_update_model=True),
        sliding_window=Logs(loss=lazy("window loss", 2.0), accuracy=lazy("accuracy", (0.5, "details"))),
    )
    dataset = Logs(loss=lazy("val_loss", 1.0), confusion=lazy("confusion", {"cat": 4}), note=lazy("note", "good"))
    params = Logs(batch=Logs(lr=lazy("lr", 0.1)))
    return Logs(current=Logs(epoch=0, training=training, validation=Logs(dataset=dataset), training_params=params))


def test_a_look_computes_what_is_looked_at_and_no_more(logs, lazy):
    native = NativeLogs(logs=logs)
    assert native
    assert (native or {}) is native
    assert "val_loss" in native
    assert "validation.dataset.loss" in native
    assert "val_los" not in native
    assert lazy.computed == []
    assert native["val_loss"] == native.get("validation.dataset.loss") == 1.0
    assert lazy.computed == ["val_loss"]
    assert native.get("training.batch.loss") == 3.0
    assert native["loss"] == 2.0
    assert native["training_params.batch.lr"] == 0.1
    assert native["validation.dataset.confusion.cat"] == 4.0
    assert native.get("val_accuracy") is None
    with pytest.raises(KeyError, match="val_accuracy"):
        native["val_accuracy"]


def test_what_is_shown_are_numbers_under_native_names_in_every_way_to_iterate(logs):
    native = NativeLogs(logs=logs)
    shown = {"loss": 2.0, "accuracy": 0.5, "val_loss": 1.0}
    assert dict(native) == {**native} == native.copy() == dict(native.items()) == shown
    assert set(native) == set(native.keys()) == set(shown)
    assert len(native) == 3
    assert sorted(native.values()) == [0.5, 1.0, 2.0]
    assert "{val_loss:.2f}-{accuracy}".format(**native) == "1.00-0.5"
    assert native["val_confusion"] == {"cat": 4}  # not shown, and found where it is asked for


def test_at_the_end_of_a_batch_other_sets_are_found_but_not_shown(logs):
    native = NativeLogs(logs=logs, within_epoch=True)
    assert set(native) == {"loss", "accuracy"}
    assert native["val_loss"] == 1.0


def test_what_the_dict_holds_comes_before_what_the_host_knows_and_that_before_mlpugs(logs):
    native = NativeLogs({"val_loss": -1.0}, logs=logs, of_host={"loss": lambda: 5, "extra": lambda: 7}, convert=str)
    assert dict(native) == {"val_loss": -1.0, "loss": "5.0", "extra": "7.0", "accuracy": "0.5"}
    native["loss"] = 9.0
    native.update(learning_rate=0.1)
    assert (native["loss"], native["learning_rate"]) == (9.0, 0.1)
    assert "learning_rate" in native.copy()


def test_a_deep_copy_shows_the_same_run_and_takes_values_of_its_own(logs, lazy):
    native = NativeLogs({"own": [1]}, logs=logs)
    copied = copy.deepcopy(native)
    assert lazy.computed == []
    copied["own"].append(2)
    copied["step"] = 3
    assert (native["own"], "step" in native, copied["val_loss"]) == ([1], False, 1.0)


def test_values_are_those_of_the_moment(logs):
    native = NativeLogs(logs=logs)
    assert native["val_loss"] == 1.0
    logs["current"]["validation"]["dataset"] = Logs(loss=0.25)
    assert native["val_loss"] == 0.25


def test_frozen_it_stays_what_it_was(logs):
    native = NativeLogs(logs=logs, of_host={"extra": lambda: 7})
    native.freeze()
    logs["current"]["validation"]["dataset"] = Logs(loss=0.25)
    assert dict(native) == {"extra": 7.0, "loss": 2.0, "accuracy": 0.5, "val_loss": 1.0}
    assert native["val_loss"] == 1.0


def test_without_logs_it_is_a_dict():
    assert dict(NativeLogs({"loss": 1})) == {"loss": 1}
    assert dict(NativeLogs()) == {}


PATHS = ["training.batch.loss", "validation.dataset.loss", "validation.dataset.f1"]


@pytest.mark.parametrize(
    "monitor",
    ["loss", "val_loss", "validation.dataset.loss", "validation.dataset.f1.cat", "epoch", None, 3],
)
def test_what_is_published_can_be_monitored(monitor):
    check_monitors([SimpleNamespace(monitor=monitor)], ["epoch"], PATHS, [])


@pytest.mark.parametrize("monitor", ["val_los", "validation.dataset.los", "accuracy", "lr"])
def test_what_nobody_publishes_is_refused_and_what_is_there_is_listed(monitor):
    with pytest.raises(ConfigurationError) as caught:
        check_monitors([SimpleNamespace(monitor=monitor)], ["epoch"], PATHS, [])
    assert f"monitors {monitor!r}, which nobody publishes. Published are epoch, loss, val_f1, val_loss, and the" in str(
        caught.value
    )
    assert all(path in str(caught.value) for path in PATHS)


@pytest.mark.parametrize(
    ("beginnings", "monitor", "is_refused"),
    [
        (["validation.dataset"], "validation.dataset.anything", False),
        (["validation.dataset"], "val_anything", False),
        (["validation.dataset"], "anything", True),
        (["test.dataset"], "test_anything", False),
        (["training.epoch"], "anything", False),
        (["training_params.lr"], "anything", True),
    ],
)
def test_where_the_host_writes_metrics_itself_their_names_are_let_through(beginnings, monitor, is_refused):
    callbacks = [SimpleNamespace(monitor=monitor)]
    if is_refused:
        with pytest.raises(ConfigurationError, match="nobody publishes"):
            check_monitors(callbacks, [], [], beginnings)
    else:
        check_monitors(callbacks, [], [], beginnings)


@pytest.mark.parametrize(
    ("monitor", "logs_itself", "is_refused"),
    [
        ("val_loss", (), False),
        ("validation.dataset.loss", (), False),
        ("val_los", (), True),
        ("val_los", ("validation.dataset",), False),
    ],
)
def test_a_monitor_is_checked_when_the_manager_is_made(evaluator, monitor, logs_itself, is_refused):
    stopping = FakeNativeCallback(hear=print)
    stopping.monitor = monitor
    model = LinearRegression(num_features=2)
    trainer = fake_trainer(GradientDescent(model.parameters), model, logs_itself=logs_itself)
    metrics = TestMetricsLogger([[1.0]], "validation", metric_evaluator=evaluator, batch_level=False)
    if is_refused:
        with pytest.raises(
            ConfigurationError, match=r"'val_los', which nobody publishes\. Published are val_loss, and"
        ):
            TrainingManager(trainer, [1], callbacks=[metrics, stopping])
    else:
        TrainingManager(trainer, [1], callbacks=[metrics, stopping])
