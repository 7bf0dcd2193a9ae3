"""Which checkpoints the CheckpointManager makes, and that a run that goes on decides as one that never stopped."""

import math
from functools import partial

import numpy as np
import pytest
from core.checkpoint_runs import (
    BEST,
    EVERYTHING,
    LATEST,
    METRIC,
    ONLY_BEST,
    TRAINING,
    Counting,
    Metric,
    StopAt,
    Watch,
    contents,
    manager_of,
    watched_run,
)

from mlpug import checkpoints
from mlpug.callbacks import Callback, CheckpointManager
from mlpug.errors import MlpugWarning
from mlpug.testing import GradientDescent, fake_trainer
from mlpug.trainers import TrainingManager


@pytest.fixture
def train(tmp_path):
    """Trains with a CheckpointManager in tmp_path, and watches."""
    return partial(watched_run, tmp_path)


def test_files_are_written_at_their_periods_and_at_the_end(train):
    watch = train(num_batches=11, create_checkpoint_every=3, archive_last_model_checkpoint_every=4)

    for done, is_last, files in watch.rests:
        saved = done if is_last else done - done % 3
        expected = {LATEST: saved, TRAINING: saved} if saved else {}
        expected |= {f"run-model-checkpoint-{at}.safetensors": at for at in range(4, done + 1, 4)}
        assert files == expected
    assert [done for done, is_last, _ in watch.rests if is_last] == [11]


def test_the_best_model_is_the_one_at_the_best_metric(train, tmp_path):
    values = [0.5, 0.6, 0.4, math.nan, 0.4, None, 0.3, 0.9]
    watch = train(values, num_batches=8, **ONLY_BEST)

    assert watch.best == [1, 3, 7]
    saved_at = {done: files.get(BEST) for done, _, files in watch.rests}
    assert saved_at == {1: 1, 2: 1, 3: 3, 4: 3, 5: 3, 6: 3, 7: 7, 8: 7}
    assert contents(tmp_path) == {BEST: 7}


def test_the_logs_say_which_one_is_best(train):
    seen = []

    class Reading(Callback):
        def on_batch_training_completed(self, batch, logs):
            best = logs["best"]
            seen.append(best and (best["validation"]["dataset"]["loss"], best["global_iter"], best["is_best"]))

    train([3.0, 2.0, 5.0, 1.0], num_batches=4, extra=[Reading()], metric_monitor_period=2)

    assert seen == [None, (2.0, 1, True), (2.0, 1, True), (1.0, 3, True)]


def test_what_is_best_doesnt_change_when_the_logs_do(train):
    watch = train([1.0, 2.0, 3.0], num_batches=3, metric_monitor_period=1)

    assert watch.run.logs["best"]["validation"] == {"dataset": {"loss": 1.0}}
    assert watch.run.logs["current"]["is_best"] is False


def test_a_larger_metric_can_be_better_and_a_threshold_keeps_poor_models_away(train, tmp_path):
    watch = train([0.1, 0.4, 0.3, 0.7], 4, metric_opt_mode="max", metric_checkpoint_threshold=0.5, **ONLY_BEST)

    assert watch.best == [1, 2, 4]
    assert [files for _, _, files in watch.rests] == [{}, {}, {}, {BEST: 4}, {BEST: 4}, {BEST: 4}]


def test_by_epoch_everything_happens_after_epochs(train):
    values = [3.0, 1.0, 2.0]
    watch = train(values, num_batches=2, num_epochs=3, batch_level=False, archive_last_model_checkpoint_every=2)

    ends = [files for (done, _, files), (next_done, _, _) in zip(watch.rests, watch.rests[1:], strict=False)]
    archived = "run-model-checkpoint-4.safetensors"
    nothing, first = {}, {BEST: 2, LATEST: 2, TRAINING: 2}
    second, third = {BEST: 4, LATEST: 4, TRAINING: 4, archived: 4}, {BEST: 4, LATEST: 6, TRAINING: 6, archived: 4}
    assert ends == [nothing, nothing, first, first, first, second, second, second, third]
    assert watch.rests[-1] == (6, True, third)


@pytest.mark.parametrize(("at_start", "expected"), [(True, {LATEST: 1, TRAINING: 1, BEST: 1}), (False, {})])
def test_the_first_batch_can_be_passed_over(train, at_start, expected):
    watch = train(
        [1.0, 2.0], 2, metric_monitor_period=1, create_checkpoint_every=1, allow_checkpointing_at_start=at_start
    )

    assert watch.rests[0] == (1, False, dict(sorted(expected.items())))


def test_only_the_newest_archived_models_are_kept_and_nothing_else_is_deleted(train, tmp_path):
    others = {
        "run-model-checkpoint-01.safetensors",
        "run-model-checkpoint-x.safetensors",
        "run-model-checkpoint-1.safetensors.txt",
        "another-run-model-checkpoint-1.safetensors",
        "run.-model-checkpoint-1.safetensors",
        "Run-model-checkpoint-1.safetensors",
    }
    for name in others:
        checkpoints.save(tmp_path / name, {"model": {"model": {"count": np.array(0)}}})
    train(
        num_batches=12,
        archive_last_model_checkpoint_every=1,
        keep_archived=3,
        create_latest_model_checkpoint=False,
        create_training_checkpoint=False,
    )

    kept = {f"run-model-checkpoint-{at}.safetensors" for at in (10, 11, 12)}
    assert {path.name for path in tmp_path.iterdir()} == others | kept


def test_an_archived_model_just_written_is_kept_though_an_earlier_run_got_further(train, tmp_path):
    for at in (100, 200):
        checkpoints.save(tmp_path / f"run-model-checkpoint-{at}.safetensors", {"model": {"model": {"count": 0}}})
    watch = train(num_batches=1, archive_last_model_checkpoint_every=1, keep_archived=1)

    assert set(watch.rests[-1][2]) >= {"run-model-checkpoint-1.safetensors", "run-model-checkpoint-200.safetensors"}
    assert "run-model-checkpoint-100.safetensors" not in watch.rests[-1][2]


def test_what_the_last_whole_batch_left_is_saved_when_an_error_ends_training(tmp_path):
    class Failing(Counting):
        def __call__(self, batch_data, evaluate_settings, inference_mode=False):
            if self.parameters["count"] == 4:
                raise RuntimeError("in the model")
            return 1.0, 1

    model = Failing()
    trainer = fake_trainer(GradientDescent(model.parameters, learning_rate=1.0), model)
    trainer.set_training_model(model)
    saves = CheckpointManager(tmp_path, "run", metric_to_monitor=None, create_checkpoint_every=3)
    with pytest.raises(RuntimeError, match="in the model"):
        TrainingManager(trainer, [0.0] * 9, callbacks=[saves]).start_training()

    assert contents(tmp_path) == {LATEST: 4, TRAINING: 4}
    assert checkpoints.describe(tmp_path / TRAINING).description["global_iter"] == 4


def test_a_best_model_is_saved_though_another_callback_fails_at_that_batch(tmp_path, callback_with):
    def fails(batch, logs):
        raise RuntimeError("mine")

    saves = CheckpointManager(tmp_path, "run", **ONLY_BEST)
    with pytest.raises(RuntimeError, match="mine"):
        manager_of([Metric([0.5]), saves, callback_with(on_batch_training_completed=fails)]).start_training()

    assert contents(tmp_path) == {BEST: 1}


def test_a_run_that_does_nothing_leaves_the_files_of_the_one_before(train, tmp_path, callback_with):
    train(num_batches=3)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}

    def fails(logs):
        raise RuntimeError("at once")

    with pytest.raises(RuntimeError, match="at once"):
        train(extra=[callback_with(on_epoch_start=fails)])

    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


VALUES = [0.5, 0.7, 0.4, 0.45, math.nan, 0.2, 0.6, 0.3, 0.1, 0.9, 0.8, 0.05]


@pytest.mark.parametrize("in_background", [False, True])
@pytest.mark.parametrize("stop_at", range(1, 12))
def test_a_resumed_run_decides_as_one_that_never_stopped(tmp_path, stop_at, in_background):
    options = {
        "metric_monitor_period": 2,
        "metric_checkpoint_threshold": 0.42,
        "create_checkpoint_every": 3,
        "archive_last_model_checkpoint_every": 4,
        "keep_archived": 2,
        "save_in_background": in_background,
    }

    def run(directory, *callbacks, resume_from=None):
        watch = Watch()
        saves = CheckpointManager(directory, "run", **options)
        manager_of([Metric(VALUES), saves, watch, *callbacks], 4, num_epochs=3).start_training(resume_from)
        return watch

    whole = run(tmp_path / "whole")
    first = run(tmp_path / "parts", StopAt(stop_at))
    second = run(tmp_path / "parts", resume_from=tmp_path / "parts" / TRAINING)

    assert whole.best == [2, 4, 6, 12]
    assert first.best + second.best == whole.best
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_only_the_first_process_writes_but_all_gather(tmp_path, on_rank):
    states = []
    saves = CheckpointManager(tmp_path, "run", **EVERYTHING)
    manager = manager_of([Metric([0.5] * 6), saves])
    manager.trainer.adapter = on_rank(manager.trainer.adapter, 1)
    real = manager.get_state
    manager.get_state = lambda: (states.append(manager.global_iter), real())[1]
    manager.start_training()

    assert list(tmp_path.iterdir()) == []
    assert states == [1, 2, 3, 4, 5, 6, 6]


@pytest.mark.parametrize(
    ("values", "period", "reason"),
    [
        ([None] * 6, 2, f"{METRIC} was never in the logs when it was looked at, every 2 batches"),
        ([0.5] * 6, 7, "metric_monitor_period is 7 batches: make it shorter"),
        ([math.nan] * 6, 1, "it was NaN, or infinitely bad"),
    ],
)
def test_one_warning_at_the_end_says_why_there_is_no_best_model(train, values, period, reason):
    with pytest.warns(MlpugWarning, match=reason) as caught:
        train(values, metric_monitor_period=period)

    assert len(caught) == 1


def test_a_run_that_was_stopped_before_the_metric_was_due_isnt_warned(train):
    watch = train([0.5] * 6, metric_monitor_period=5, extra=[StopAt(2)])

    assert watch.run.global_iter == 2


def test_an_interrupted_run_isnt_warned(tmp_path, callback_with):
    def interrupt(batch, logs):
        raise KeyboardInterrupt

    saves = CheckpointManager(tmp_path, "run")
    with pytest.raises(KeyboardInterrupt):
        manager_of([Metric([0.5]), saves, callback_with(on_batch_training_completed=interrupt)]).start_training()


CHANGES = {
    "another metric": {"metric_to_monitor": "training_params.batch.duration"},
    "the other way": {"metric_opt_mode": "max"},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_was_best_by_another_metric_is_no_best_of_this_one(tmp_path, change):
    options = {"metric_monitor_period": 1, "metric_to_monitor": METRIC}
    manager_of([Metric([0.1] * 6), CheckpointManager(tmp_path, "run", **options)], 6).start_training()
    assert contents(tmp_path)[BEST] == 1
    watch = Watch()
    saves = CheckpointManager(tmp_path, "run", **{**options, **change})
    manager = manager_of([Metric([0.0] * 9 + [0.2] * 3), saves, watch], 6, num_epochs=2)
    with pytest.warns(MlpugWarning, match=r"best validation.dataset.loss \(min\): 0.1. This run .* begins anew"):
        manager.start_training(tmp_path / TRAINING)
    assert watch.best[0] == 7
    assert contents(tmp_path)[BEST] == watch.best[-1]


def test_the_best_value_of_a_file_that_says_of_no_metric_is_of_this_one(tmp_path):
    saves = CheckpointManager(tmp_path, "run", metric_to_monitor=METRIC, metric_monitor_period=1)
    saves.set_state({"best": 0.1, "has_looked": True, "has_found": True})  # as version 0.1.0 has it
    assert saves.get_state()["best"] == 0.1
