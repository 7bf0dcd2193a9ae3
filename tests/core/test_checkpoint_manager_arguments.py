"""What a CheckpointManager refuses, what its files are called, and which of them a run can go on from."""

import copy
import os
import pickle
from datetime import UTC, datetime, timedelta

import pytest
from core.checkpoint_runs import LATEST, TRAINING, Counting, contents, failing_at, manager_of

from mlpug import checkpoints
from mlpug.callbacks import Callback, CheckpointManager
from mlpug.errors import ConfigurationError
from mlpug.testing import GradientDescent, fake_trainer
from mlpug.trainers import TrainingManager

IMPOSSIBLE = {
    "no metric, period": (
        {"metric_to_monitor": None, "metric_monitor_period": 3},
        "metric_monitor_period has no effect",
    ),
    "no metric, threshold": ({"metric_to_monitor": None, "metric_checkpoint_threshold": 1}, "threshold has no effect"),
    "metric": ({"metric_to_monitor": 3}, "metric_to_monitor must be a path"),
    "empty metric": ({"metric_to_monitor": ""}, "metric_to_monitor must be a path"),
    "metric with a gap": ({"metric_to_monitor": "a..b"}, "metric_to_monitor must be a path"),
    "mode": ({"metric_opt_mode": "best"}, "metric_opt_mode must be"),
    "threshold": ({"metric_checkpoint_threshold": "low"}, "metric_checkpoint_threshold must be a number"),
    "monitor period": ({"metric_monitor_period": 0}, "metric_monitor_period must be a whole number"),
    "create period": ({"create_checkpoint_every": -1}, "create_checkpoint_every must be a whole number"),
    "archive period": ({"archive_last_model_checkpoint_every": 0}, "archive_last_model_checkpoint_every must be"),
    "keep": ({"archive_last_model_checkpoint_every": 1, "keep_archived": 0}, "keep_archived must be a whole number"),
    "keep without": ({"keep_archived": 2}, "keep_archived=2 has no effect"),
    "period of nothing": (
        {"create_checkpoint_every": 2, "create_latest_model_checkpoint": False, "create_training_checkpoint": False},
        "create_checkpoint_every=2 has no effect",
    ),
    "nothing": (
        {"metric_to_monitor": None, "create_latest_model_checkpoint": False, "create_training_checkpoint": False},
        "never saves anything",
    ),
    "hyper-parameters": ({"model_hyper_parameters": {"act": print}}, "model_hyper_parameters/act"),
    "path": ({"checkpoints_path": 3}, "checkpoints_path must be a directory"),
    **{
        f"base {base!r}": ({"base_checkpoint_filename": base}, "base_checkpoint_filename must be the start of")
        for base in ("", " ", "a/b", "a\\b", "a\0", 3, "/")
    },
}


def test_training_checkpoints_of_a_given_name_are_that_file(tmp_path):
    saves = CheckpointManager(tmp_path, "run", metric_to_monitor=None)
    checkpoints.save(tmp_path / "other-training-checkpoint.safetensors", {})

    assert saves.training_checkpoints() == []
    checkpoints.save(tmp_path / TRAINING, {})
    assert saves.training_checkpoints() == [tmp_path / TRAINING]


def test_training_checkpoints_without_a_name_are_all_in_the_directory_newest_first(tmp_path):
    saves = CheckpointManager(tmp_path, metric_to_monitor=None)
    assert saves.training_checkpoints() == []

    def path(name):
        return tmp_path / f"{name}-training-checkpoint.safetensors"

    for name, saved_at in (("b", "2024-03-01T00:00:00+00:00"), ("c", "2024-01-01T00:00:00+00:00")):
        checkpoints.save(path(name), {}, {"saved_at": saved_at})
    checkpoints.save(path("a"), {})  # says nothing of itself
    path("d").write_bytes(b"damaged")
    os.utime(path("a"), (0, datetime(2024, 2, 1, tzinfo=UTC).timestamp()))
    os.utime(path("d"), (0, datetime(2024, 4, 1, tzinfo=UTC).timestamp()))
    checkpoints.save(tmp_path / LATEST, {})

    assert saves.training_checkpoints() == [path("d"), path("b"), path("a"), path("c")]


def test_without_training_checkpoints_there_is_nothing_to_go_on_from(tmp_path):
    saves = CheckpointManager(tmp_path, "run", metric_to_monitor=None, create_training_checkpoint=False)

    assert saves.training_checkpoints() is None


def test_a_run_without_a_name_goes_on_with_the_files_that_it_resumes(tmp_path):
    train = manager_of([CheckpointManager(tmp_path, "run", metric_to_monitor=None)])
    train.start_training()
    saves = CheckpointManager(tmp_path, metric_to_monitor=None)
    saves.resumed_from(saves.training_checkpoints()[0])
    manager_of([saves], num_epochs=2).start_training(tmp_path / TRAINING)

    assert contents(tmp_path) == {LATEST: 12, TRAINING: 12}


@pytest.mark.parametrize(
    ("name", "path"),
    [("mine", TRAINING), (None, "elsewhere/" + TRAINING), (None, "another-file.safetensors")],
)
def test_a_name_that_was_given_and_files_elsewhere_stay(tmp_path, name, path):
    saves = CheckpointManager(tmp_path, name, metric_to_monitor=None)
    saves.resumed_from(tmp_path / path)
    manager_of([saves]).start_training()

    assert not (tmp_path / TRAINING).exists()
    assert len(list(tmp_path.iterdir())) == 2


def test_the_name_is_by_default_the_time_at_which_it_is_made(tmp_path):
    start = datetime.now()
    for directory in (tmp_path / "a", tmp_path / "b"):
        manager_of([CheckpointManager(directory, metric_to_monitor=None)]).start_training()
    names = {path.name for directory in (tmp_path / "a", tmp_path / "b") for path in directory.iterdir()}

    assert len(names) == 4
    for name in names:
        made = datetime.strptime(name[:26], "%Y-%m-%d-%H-%M-%S-%f")
        assert timedelta() <= made - start < timedelta(minutes=1)


@pytest.mark.parametrize(("options", "message"), IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_what_cant_work_is_refused_when_it_is_made(tmp_path, options, message):
    with pytest.raises(ConfigurationError, match=message):
        CheckpointManager(**{"checkpoints_path": tmp_path, **options})


def test_a_metric_that_nobody_writes_is_refused(tmp_path):
    with pytest.raises(
        ConfigurationError, match=r"CheckpointManager needs the metric path 'validation\.dataset\.loss'"
    ):
        manager_of([CheckpointManager(tmp_path)])


def test_a_directory_is_made_and_left_empty(tmp_path):
    CheckpointManager(tmp_path / "a" / "b", metric_to_monitor=None)

    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_directory_that_cant_be_written_to_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigurationError, match=r"can be written to, and .* isn't: .* Choose another"):
            CheckpointManager(path, metric_to_monitor=None)
    with pytest.raises(ConfigurationError, match="Choose a shorter name"):
        CheckpointManager(tmp_path, "x" * 230, metric_to_monitor=None)
    failing_at(monkeypatch, "fsync", 1)
    with pytest.raises(ConfigurationError, match="Input/output error"):
        CheckpointManager(tmp_path, metric_to_monitor=None)


class Forwards(Callback):
    """Trains as any run does, and asks for a state at its end."""

    def on_rest(self, logs, is_last):
        if is_last:
            self.manager.get_state()


def test_a_run_that_no_checkpoint_can_be_made_of_is_refused_and_trains_without(tmp_path):
    model = Counting()
    trainer = fake_trainer(GradientDescent(model.parameters), model, no_checkpoints="Nobody has it. Take another.")
    trainer.set_training_model(model)
    message = r"can't make or load a checkpoint of this run: Nobody has it. Take another."
    with pytest.raises(ConfigurationError, match=f"CheckpointManager {message}"):
        TrainingManager(trainer, [1.0], callbacks=[CheckpointManager(tmp_path, metric_to_monitor=None)])
    manager = TrainingManager(trainer, [1.0], num_epochs=2)
    with pytest.raises(ConfigurationError, match=r"start_training\(resume_from=...\) can't"):
        manager.start_training(resume_from=tmp_path / TRAINING)
    manager.start_training()
    assert manager.global_iter == 2
    with pytest.raises(ConfigurationError, match=f"get_state {message}"):
        TrainingManager(trainer, [1.0], callbacks=[Forwards()]).start_training()


def test_a_copy_of_a_callback_belongs_to_no_run(tmp_path):
    model = Counting()
    trainer = fake_trainer(GradientDescent(model.parameters), model)
    trainer.set_training_model(model)
    saves = CheckpointManager(tmp_path, "run", metric_to_monitor=None, save_in_background=True)
    TrainingManager(trainer, [1.0], num_epochs=2, callbacks=[saves]).start_training()
    for copied in (copy.deepcopy(saves), pickle.loads(pickle.dumps(saves))):
        assert not hasattr(copied, "manager")
        assert copied.get_state() == saves.get_state()
        other = TrainingManager(trainer, [1.0], num_epochs=3, callbacks=[copied])
        other.start_training()
        assert copied.manager is other
    assert saves.manager is not other
