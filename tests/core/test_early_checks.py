"""What can be known before training is refused before training, with the cure."""

import io
import os
import signal
import subprocess
import sys
import textwrap
from collections import namedtuple

import numpy as np
import pytest

from mlpug.callbacks import Callback, LogProgress, TestMetricsLogger, TrainingMetricsLogger
from mlpug.errors import ConfigurationError, TrainingModelError
from mlpug.evaluation import MetricEvaluator
from mlpug.evaluation.metric import join
from mlpug.step_output import as_step_output
from mlpug.testing import GradientDescent, LinearRegression, fake_trainer
from mlpug.trainers import TrainingManager
from mlpug.trainers.callback_list import check_known_names

BATCHES = [(np.ones((2, 1)), np.ones(2))] * 3


def new_trainer():
    model = LinearRegression(1)
    trainer = fake_trainer(GradientDescent(model.parameters), model)
    trainer.set_training_model(model)
    return trainer


class AsyncHook(Callback):
    async def on_epoch_start(self, logs):
        pass


def evaluator():
    return MetricEvaluator(model_evaluate_func=lambda batch, **_: 0.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MetricEvaluator(lambda batch, **_: 0.5), "trainer must be an mlp.trainers.DefaultTrainer"),
        (lambda: MetricEvaluator(model_evaluate_func=3), "model_evaluate_func must be a function, not 3"),
        (lambda: LogProgress(log_condition_func=True), "log_condition_func must be a function, not True"),
        (lambda: TrainingMetricsLogger(evaluator(), log_condition_func=1), "log_condition_func must be a function"),
        (lambda: TrainingManager(new_trainer(), BATCHES, callbacks=LogProgress()), "callbacks must be a list"),
        (lambda: TrainingManager(new_trainer(), BATCHES, callbacks=None), "callbacks must be a list of callbacks"),
        (lambda: TrainingManager(new_trainer(), BATCHES, callbacks=[AsyncHook()]), "async, so it would never run"),
        (lambda: TrainingManager(new_trainer(), list), "must be an iterable of batches, not the class list"),
        (lambda: TestMetricsLogger(BATCHES, "epoch", evaluator()), "dataset_name must be a name without a dot"),
        (lambda: TestMetricsLogger(BATCHES, "my.set", evaluator()), "dataset_name must be a name without a dot"),
    ],
)
def test_what_cant_work_is_refused_when_it_is_made(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


class Paths(Callback):
    def __init__(self, writes=(), needs=()):
        self.writes, self.needs = writes, needs

    def metric_paths(self):
        return self.writes

    def required_metric_paths(self):
        return self.needs


@pytest.mark.parametrize(
    "needs",
    ["validation", "validation.dataset", "validation.dataset.loss", "validation.dataset.loss.of_a", "own.dataset.loss"],
)
def test_once_the_host_has_told_its_names_a_path_of_it_or_elsewhere_is_found(needs):
    check_known_names([Paths(needs=[needs])], "validation.dataset", ["loss"])


def test_once_the_host_has_told_its_names_a_path_that_nobody_writes_is_refused():
    callbacks = [Paths(needs=["validation.dataset.accuracy"])]
    with pytest.raises(
        ConfigurationError, match=r"'validation.dataset' are validation.dataset.a, validation.dataset.b"
    ):
        check_known_names(callbacks, "validation.dataset", ["b", "a"])
    check_known_names([*callbacks, Paths(writes=["validation.dataset.accuracy"])], "validation.dataset", ["b", "a"])


def test_results_in_the_place_of_the_number_of_samples_are_refused():
    with pytest.raises(TrainingModelError, match=r"num_samples, .* must be a number, not a ndarray\(3,\)"):
        as_step_output((0.5, np.ones(3)), batch=None)


def test_joined_named_tuples_keep_their_names():
    Pair = namedtuple("Pair", ["label", "loss"])
    joined = join([Pair(np.array([1]), 0.5), Pair(np.array([2, 3]), 0.25)])
    assert (joined.label.tolist(), joined.loss.tolist()) == ([1, 2, 3], [0.5, 0.25])


def test_progress_shows_a_set_that_was_written_as_a_plain_dict(capsys):
    class Write(Callback):
        def metric_paths(self):
            return ["mine.dataset.score"]

        def on_epoch_completed(self, logs):
            logs["current"]["mine"] = {"dataset": {"score": 0.25}}

    callbacks = [Write(), LogProgress(set_names=["mine"])]
    TrainingManager(new_trainer(), BATCHES, callbacks=callbacks).start_training()
    assert "mine           : score         0.250." in capsys.readouterr().out


def test_ctrl_c_in_the_middle_of_a_print_is_no_error(monkeypatch):
    """A buffered stream can't be entered again by a handler that interrupted it."""

    class PressedWhileWriting(io.RawIOBase):
        pressed = False

        def writable(self):
            return True

        def write(self, data):
            if not PressedWhileWriting.pressed:
                PressedWhileWriting.pressed = True
                os.kill(os.getpid(), signal.SIGINT)
            return len(data)

    class Print(Callback):
        outcome = None

        def on_batch_training_completed(self, batch, logs):
            print("a line", flush=True)

        def on_training_ended(self, logs, **outcome):
            Print.outcome = {name for name, value in outcome.items() if value}

    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(PressedWhileWriting())))
    manager = TrainingManager(new_trainer(), BATCHES, callbacks=[Print()])
    manager.start_training()
    assert Print.outcome == {"interrupted", "callback_calls_success"}
    assert manager.logs["current"]["batch_step"] == 0


def test_a_closed_standard_output_doesnt_end_training():
    code = """
        import os, numpy as np
        from mlpug.testing import GradientDescent, LinearRegression, fake_trainer
        from mlpug.trainers import TrainingManager
        model = LinearRegression(1)
        trainer = fake_trainer(GradientDescent(model.parameters), model)
        trainer.set_training_model(model)
        TrainingManager(trainer, [(np.ones((2, 1)), np.ones(2))]).start_training()
        os.write(2, b"trained")
        os._exit(0)
    """
    read_end, write_end = os.pipe()
    os.close(read_end)
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=write_end, stderr=subprocess.PIPE, text=True, timeout=60
    )
    os.close(write_end)
    assert process.stderr.endswith("trained")
