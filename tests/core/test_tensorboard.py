"""Curves, as a real TensorBoard server shows them."""

import math
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from mlpug.callbacks import (
    AutoTensorboard,
    Callback,
    CheckpointManager,
    Tensorboard,
    TestMetricsLogger,
    TrainingMetricsLogger,
)
from mlpug.errors import ConfigurationError, MlpugWarning
from mlpug.evaluation import Metric, MetricEvaluator
from mlpug.event_files import EventFile

NUM_BATCHES, NUM_EPOCHS = 4, 3


class Record(Callback):
    def __init__(self):
        self.training, self.windows, self.validation = [], [], []

    def on_batch_training_completed(self, batch, logs):
        step = logs["current"]["global_iter"]
        self.training.append((step, logs.at("training.batch.loss")))
        self.windows.append((step, logs.at("training.sliding_window.loss")))

    def on_epoch_completed(self, logs):
        self.validation.append((logs["current"]["global_iter"], logs.at("validation.dataset.loss")))


@pytest.fixture
def train(make_manager, mean_model, tmp_path):
    """Trains with curves in tmp_path; gives what they have to show."""

    def train(make_callbacks, resume_from=None, num_epochs=NUM_EPOCHS, before=()):
        dataset = [np.array([value]) for value in (1.0, 2.0, 4.0, 8.0)]
        evaluator = MetricEvaluator(
            model_evaluate_func=lambda batch, **_: float(batch.mean()),
            metrics={"two": Metric(lambda batch, output: float(output.loss), lambda loss: {"a": 1.0, "b": math.inf})},
        )
        record = Record()
        callbacks = [
            *before,
            TrainingMetricsLogger(evaluator, sliding_window_length=2),
            TestMetricsLogger(
                [np.array([3.0]), np.array([5.0, 6.0])], "validation", metric_evaluator=evaluator, batch_level=False
            ),
            *make_callbacks(),
            record,
        ]
        manager = make_manager(dataset, callbacks, mean_model, num_epochs=num_epochs)
        manager.start_training(resume_from)
        return record

    return train


def both(directory):
    return [
        Tensorboard("digits", ["training.batch.loss", "training.sliding_window.loss"], directory=directory),
        Tensorboard("digits", ["validation.dataset.loss"], batch_level=False, directory=directory),
    ]


def single(points):
    """In single precision, as the files have them."""
    return [(step, float(np.float32(value))) for step, value in points]


@pytest.mark.parametrize("options", [[], ["--load_fast=false"]], ids=["fast server", "slow server"])
def test_a_server_shows_all_values_of_training_its_window_and_validation(train, serve, tmp_path, options):
    record = train(lambda: both(tmp_path))
    server = serve(tmp_path, *options)
    runs = [f"digits/{run}" for run in ("training", "training-sliding-window", "validation")]
    assert server.tags(runs) == {run: ["loss"] for run in runs}  # one name, so that they share a plot
    assert server.curve(runs[0], "loss") == single(record.training)
    assert server.curve(runs[1], "loss") == single(record.windows)
    assert server.curve(runs[2], "loss") == single(record.validation)
    assert len(record.training) == NUM_BATCHES * NUM_EPOCHS


@pytest.mark.parametrize(
    ("saved_after", "options"),
    [(2, []), (4, []), (4, ["--load_fast=false"]), (7, ["--load_fast=false"])],
    ids=["2, fast server", "4, fast server", "4, slow server", "7, slow server"],
)
def test_a_resumed_run_goes_on_with_its_curves_without_a_gap_or_a_doubled_step(
    train, serve, tmp_path, saved_after, options
):
    class KilledError(Exception):
        pass

    class Kill(Callback):
        """Ends training two batches after the last checkpoint that counts."""

        def on_batch_training_completed(self, batch, logs):
            if logs["current"]["global_iter"] == saved_after + 1:
                raise KilledError

    checkpoints = CheckpointManager(
        tmp_path / "state", "run", metric_to_monitor=None, create_checkpoint_every=saved_after
    )

    class Copy(Callback):
        """Keeps the checkpoint as it was then: an error writes another."""

        def on_rest(self, logs, is_last):
            source = tmp_path / "state" / "run-training-checkpoint.safetensors"
            if logs["current"]["global_iter"] + 1 == saved_after and source.exists() and not self.path.exists():
                self.path.write_bytes(source.read_bytes())

        path = tmp_path / "kept.safetensors"

    with pytest.raises(KilledError):
        train(lambda: [*both(tmp_path / "runs"), checkpoints, Copy()], before=[Kill()])
    train(lambda: both(tmp_path / "runs"), resume_from=Copy.path)
    whole = train(list)
    server = serve(tmp_path / "runs", *options)
    server.tags(["digits/training", "digits/validation"])
    assert server.curve("digits/training", "loss") == single(whole.training)
    assert server.curve("digits/training-sliding-window", "loss") == single(whole.windows)
    assert server.curve("digits/validation", "loss") == single(whole.validation)


def test_everything_that_a_set_has_is_shown_without_naming_it(train, serve, tmp_path):
    record = train(
        lambda: [
            AutoTensorboard("all", name, directory=tmp_path) for name in ("training", "validation", "training_params")
        ]
    )
    server = serve(tmp_path)
    tags = server.tags(["all/training", "all/validation", "all/training_params"])
    assert tags["all/training"] == ["did_update_model", "loss", "two/a", "two/b"]
    assert tags["all/training-sliding-window"] == tags["all/validation"] == ["loss", "two/a", "two/b"]
    assert tags["all/training_params"] == ["duration", "lr"]
    assert server.curve("all/validation", "loss") == single(record.validation)


def test_names_labels_and_periods(train, serve, tmp_path):
    record = train(
        lambda: [
            Tensorboard(
                "named",
                {"cost": "training.batch.loss", "price": "training.batch.loss"},
                dataset_name="digits",
                label_name="slow",
                log_period=2,
                directory=tmp_path,
            )
        ]
    )
    server = serve(tmp_path)
    assert server.tags(["named/digits-slow"]) == {"named/digits-slow": ["cost", "price"]}
    for name in ("cost", "price"):
        assert server.curve("named/digits-slow", name) == single(record.training[::2])


def test_numbers_that_have_no_place_in_single_precision_are_shown_as_what_they_become(serve, tmp_path):
    file = EventFile(tmp_path / "run")
    values = [1e300, -1e300, 1e-300, 0.1]
    for step, value in enumerate(values):
        file.add("value", value, step)
    file.close()
    server = serve(tmp_path)
    server.tags(["run"])
    shown = server.get("data/plugin/scalars/scalars", run="run", tag="value")
    assert [point[1] for point in shown] == [0, 1, 2, 3]
    assert shown[2][2] == 0.0
    assert shown[3][2] == pytest.approx(0.1, rel=1e-7)


def test_no_ml_library_is_loaded_for_it(tmp_path):
    for name in ("torch", "tensorflow", "keras", "jax"):
        (tmp_path / f"{name}.py").write_text("")  # so that it could be loaded
    code = (
        "import sys; from mlpug.callbacks import Tensorboard; from mlpug.event_files import EventFile; from pathlib "
        f"import Path; EventFile(Path({str(tmp_path)!r}, 'run')).add('loss', 0.5, 0); "
        "print({'torch', 'tensorflow', 'keras', 'jax', 'tensorboard', 'tensorboardX'} & set(sys.modules))"
    )
    environment = {"PYTHONPATH": f"{tmp_path}:{':'.join(sys.path)}"}
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert (shown.stdout, shown.stderr) == ("set()\n", "")


def test_it_warns_where_it_stands_before_the_callback_that_writes(train, tmp_path):
    with pytest.warns(MlpugWarning, match="found none of training.batch.loss in the logs: put it behind") as warned:
        train(list, before=[Tensorboard("digits", ["training.batch.loss"], directory=tmp_path)])
    assert len(warned) == 1


def test_a_path_that_nobody_writes_is_refused(train, tmp_path):
    with pytest.raises(ConfigurationError, match=r"training\.batch\.los"):
        train(lambda: [Tensorboard("digits", ["training.batch.los"], directory=tmp_path)])


def test_what_is_no_number_has_no_curve(make_manager, mean_model, tmp_path):
    evaluator = MetricEvaluator(
        model_evaluate_func=lambda batch, **_: float(batch.mean()),
        metrics={"words": Metric(lambda *_: 0.0, lambda _: "good")},
    )
    callbacks = [TrainingMetricsLogger(evaluator), Tensorboard("digits", ["training.batch.words"], directory=tmp_path)]
    with pytest.raises(ConfigurationError, match=r"training\.batch\.words is no number, and only numbers have curves"):
        make_manager([np.ones(1)], callbacks, mean_model).start_training()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric_paths": []}, "metric_paths must have a metric path at least, and is empty"),
        ({"metric_paths": "training.batch.loss"}, "metric_paths must be a list of metric paths"),
        ({"metric_paths": ["a"], "experiment_name": "a/b"}, "experiment_name must be a name that a folder can have"),
        ({"metric_paths": ["a"], "experiment_name": None}, "experiment_name must be a name that a folder can have"),
        ({"metric_paths": ["a"], "label_name": ".."}, "label_name must be a name that a folder can have"),
        ({"metric_paths": ["a"], "log_period": 0}, "log_period must be a whole number of at least 1"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        Tensorboard(**{"experiment_name": "digits", **arguments})


def test_files_of_one_directory_never_replace_each_other(tmp_path):
    files = [EventFile(tmp_path) for _ in range(5)]
    for file in files:
        file.close()
    names = [path.name for path in pathlib.Path(tmp_path).iterdir()]
    assert len(names) == 5
