"""A look at a path that nobody writes is an error; at one that somebody may write it is None until it is there."""

import numpy as np
import pytest

from mlpug.callbacks import Callback, CheckpointManager, TestMetricsLogger, TrainingMetricsLogger
from mlpug.errors import ConfigurationError, MlpugWarning
from mlpug.evaluation import MetricEvaluator
from mlpug.testing import GradientDescent, LinearRegression, fake_trainer
from mlpug.trainers import TrainingManager

BATCHES = [(np.ones((2, 1)), np.ones(2))] * 4


def train(callbacks, resume_from=None, num_epochs=2, **options):
    model = LinearRegression(1)
    trainer = fake_trainer(GradientDescent(model.parameters), model, **options)
    trainer.set_training_model(model)
    manager = TrainingManager(trainer, BATCHES, num_epochs=num_epochs, callbacks=callbacks)
    manager.start_training(resume_from=resume_from)
    return manager


def metrics():
    evaluator = MetricEvaluator(model_evaluate_func=lambda batch, **_: 0.5)
    return [
        TrainingMetricsLogger(evaluator, log_condition_func=lambda logs, batch: logs["current"]["batch_step"] == 2),
        TestMetricsLogger(BATCHES, "validation", evaluator, batch_level=False),
    ]


class Looks(Callback):
    def __init__(self, *paths):
        super().__init__()
        self.paths, self.found = paths, []

    def on_batch_training_start(self, batch, logs):
        self.found.append([logs.at(path) for path in self.paths])

    def on_batch_training_completed(self, batch, logs):
        self.found.append([logs.at(path) for path in self.paths])


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("training.batch.los", "training.batch.loss"),
        ("trainin.batch.loss", "training.batch.loss"),
        ("validation.loss", "validation.dataset.loss"),
        ("validation.batch.loss", None),
        ("validation.dataset.accuracy", None),
        ("test.dataset.loss", None),
        ("training_params.lr", "training_params.batch.lr"),
        ("epoc", "epoch"),
        ("", None),
    ],
)
def test_a_path_that_nobody_writes_is_an_error_with_those_that_are_known(path, meant):
    with pytest.raises(ConfigurationError) as raised:
        train([*metrics(), Looks(path)])
    message = str(raised.value)
    assert message.startswith(f"logs.at({path!r}): nobody writes that path.")
    assert ("Did you mean" in message) == (meant is not None)
    assert meant is None or f"Did you mean {meant}? Known are " in message
    for known in ("training.batch.loss", "training.sliding_window.loss", "validation.dataset.loss", "global_iter"):
        assert f" {known}" in message
    assert "name the path in its metric_paths()." in message


@pytest.mark.parametrize(
    "path",
    [
        "training.batch.loss",
        "training.batch.loss.more",
        "training.sliding_window.loss",
        "validation",
        "validation.dataset",
        "validation.dataset.loss",
        "training_params.epoch.duration",
        "training.batch.gradient_norm",
        "training_params.skipped_batches",
    ],
)
def test_a_known_path_without_a_value_yet_is_none(path):
    looks = Looks(path)
    train([looks, *metrics()], num_epochs=1)
    assert looks.found == [[None]] * 8 or path.startswith("training.sliding_window")
    assert looks.found[0] == [None]


class Writes(Callback):
    """A user's callback that says nothing of what it writes, and writes at some batches only."""

    def on_batch_training_completed(self, batch, logs):
        current = logs["current"]
        if current["global_iter"] in (0, 6):
            current["training"]["batch"]["mine"] = current["global_iter"]
            current.child("own").child("level")["value"] = current["global_iter"]
            current["plain"] = {"of": current["global_iter"]}
        if current["global_iter"] == 3:
            del current["plain"]


def test_what_a_callback_writes_without_a_word_is_known_once_it_was_written():
    looks = Looks(
        "training.batch.mine", "own.level.value", "own.level.other", "own.other.value", "plain.of", "plain.no"
    )

    class FromTheFirstBatchOn(Looks):
        def on_batch_training_start(self, batch, logs):
            if logs["current"]["global_iter"]:
                super().on_batch_training_start(batch, logs)

    looks.__class__ = FromTheFirstBatchOn
    train([Writes(), looks])
    none = [None, None]
    assert looks.found[0] == [0, 0, *none, 0, None]  # after batch 0
    assert looks.found[1] == [None, 0, *none, 0, None]  # before batch 1: the batch's values are gone
    assert looks.found[6] == [None, 0, *none, None, None]  # after batch 3, where the plain value was taken out
    assert looks.found[12] == [6, 6, *none, 6, None]


def test_what_was_written_before_is_known_in_a_resumed_run_too(tmp_path):
    class Stops(Callback):
        def on_batch_training_completed(self, batch, logs):
            if logs["current"]["global_iter"] == 4:
                self.manager.stop_training()

    class LooksLater(Looks):
        def on_batch_training_start(self, batch, logs):
            pass

    def run(*more, resume_from=None):
        looks = LooksLater("training.batch.mine", "plain")
        saves = CheckpointManager(tmp_path, "run", metric_to_monitor=None)
        train([Writes(), looks, *more, saves], resume_from=resume_from)
        return looks.found

    first = run(Stops())
    assert first + run(resume_from="auto") == run()
    assert first[-1] == [None, None]


@pytest.mark.parametrize("path", ["training.batch.loss", "training.sliding_window.loss", "validation.dataset.loss"])
def test_the_loss_may_be_looked_for_in_a_run_that_logs_none(path):
    looks = Looks(path)
    train([looks], num_epochs=1)
    assert looks.found == [[None]] * 8


def test_what_the_host_writes_by_itself_isnt_known_by_name():
    looks = Looks("training.epoch.anything", "validation.dataset.anything")
    train([looks], logs_itself=("training.epoch", "validation.dataset"), num_epochs=1)
    assert looks.found == [[None, None]] * 8
    with pytest.raises(ConfigurationError, match=r"Known are .*, training\.epoch, "):
        train([Looks("validation.epoch.anything")], logs_itself=("training.epoch", "validation.dataset"))


def test_a_plain_dict_of_a_metric_has_the_names_that_it_has():
    class OfClasses(Callback):
        def metric_paths(self):
            return ["validation.dataset.f1"]

        def on_batch_training_start(self, batch, logs):
            logs["current"].child("validation").child("dataset")["f1"] = {"cat": 0.5}

    looks = Looks("validation.dataset.f1.cat", "validation.dataset.f1.dog")
    train([OfClasses(), looks])
    assert looks.found == [[0.5, None]] * 16


class WhatTheHostWrites(Callback):
    """Stands for a host: its names are declared by their level only."""

    def on_batch_training_completed(self, batch, logs):
        logs["current"]["training"]["batch"]["loss"] = 0.5
        logs["current"]["training"]["batch"]["loss_d"] = 0.5


OPEN = {"logs_itself": ("training.batch",), "num_epochs": 1}


@pytest.mark.parametrize("path", ["los", "losss", "lsos"])
def test_a_slip_of_the_pen_where_the_host_may_write_anything_is_told_once(path):
    looks = Looks(f"training.batch.{path}")
    with pytest.warns(MlpugWarning, match=rf"'training.batch.{path}'.*Did you mean training.batch.loss\?") as told:
        train([WhatTheHostWrites(), looks], **OPEN)
    assert (len(told), looks.found) == (1, [[None]] * 8)


@pytest.mark.parametrize("path", ["loss_g", "accuracy", "loss_1", "loss.more", "lo"])
def test_other_names_may_yet_come_there(path):
    looks = Looks(f"training.batch.{path}")
    train([WhatTheHostWrites(), looks], **OPEN)
    assert looks.found == [[None]] * 8


def test_a_slip_of_the_pen_that_is_written_later_has_its_value():
    class Later(WhatTheHostWrites):
        def on_batch_training_completed(self, batch, logs):
            super().on_batch_training_completed(batch, logs)
            if logs["current"]["batch_step"] > 1:
                logs["current"]["training"]["batch"]["los"] = 0.25

    looks = Looks("training.batch.los")
    with pytest.warns(MlpugWarning, match="nobody has written that path so far"):
        train([Later(), looks], **OPEN)
    assert looks.found == [[None]] * 5 + [[0.25], [None], [0.25]]


def test_names_that_a_host_has_told_are_all_that_are_known_at_their_level():
    looks = Looks("validation.dataset.anything")
    model = LinearRegression(1)
    trainer = fake_trainer(GradientDescent(model.parameters), model, logs_itself=("validation.dataset",))
    trainer.set_training_model(model)
    manager = TrainingManager(trainer, BATCHES, callbacks=[looks])
    manager._run().on_names_known("validation.dataset", ["f1"])
    assert manager.logs.at("validation.dataset.f1") is None
    with pytest.raises(ConfigurationError, match=r"nobody writes that path.* Known are .*, validation.dataset.f1, "):
        manager.start_training()
