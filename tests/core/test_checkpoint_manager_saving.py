"""How the CheckpointManager writes: once, in an order that can be cut anywhere, in the background, never lost."""

import os
import threading
from datetime import UTC, datetime, timedelta
from functools import partial

import pytest
from core.checkpoint_runs import (
    BEST,
    EVERYTHING,
    LATEST,
    TRAINING,
    Metric,
    contents,
    count_in,
    failing_at,
    manager_of,
    watched_run,
)

from mlpug import checkpoints
from mlpug.callbacks import Callback, CheckpointManager
from mlpug.errors import CheckpointWriteError, StateError


@pytest.fixture
def train(tmp_path):
    """Trains with a CheckpointManager in tmp_path, and watches."""
    return partial(watched_run, tmp_path)


def test_one_moment_is_written_once(train, tmp_path, monkeypatch):
    writes = []
    real = checkpoints.save
    monkeypatch.setattr(checkpoints, "save", lambda path, *rest: (writes.append(path.name), real(path, *rest)))
    train(
        [1.0], num_batches=1, metric_monitor_period=1, create_checkpoint_every=1, archive_last_model_checkpoint_every=1
    )

    # once by the batch; the epoch's end is another moment
    assert [name for name in writes if "writable" not in name] == [LATEST, TRAINING, LATEST, TRAINING]
    assert contents(tmp_path) == {BEST: 1, LATEST: 1, "run-model-checkpoint-1.safetensors": 1, TRAINING: 1}


def test_at_the_end_nothing_is_written_twice(train, monkeypatch):
    writes = []
    real = checkpoints.save
    monkeypatch.setattr(checkpoints, "save", lambda path, *rest: (writes.append(path.name), real(path, *rest)))
    train(num_batches=2, num_epochs=2, batch_level=False)

    assert [name for name in writes if "writable" not in name] == [LATEST, TRAINING] * 2


@pytest.mark.parametrize("number", range(1, 10))
@pytest.mark.parametrize("call", ["replace", "unlink", "fsync", "link", "write"])
def test_whenever_it_fails_each_file_is_the_old_or_the_new_one(tmp_path, monkeypatch, call, number):
    saves = CheckpointManager(tmp_path, "run", **EVERYTHING)
    calls = []
    before = {}

    class AfterTheFirst(Callback):
        def on_rest(self, logs, is_last):
            if self.manager.global_iter == 1 and not is_last and not before:
                before.update(contents(tmp_path))
                calls.append(failing_at(monkeypatch, call, number))

    def run():
        manager_of([Metric([2.0, 1.0]), saves, AfterTheFirst()], num_batches=2).start_training()

    saves._final = lambda plan: plan  # what a process that is killed doesn't get to
    try:
        run()
        failed = False
    except CheckpointWriteError:
        failed = True
    monkeypatch.undo()

    if call in ("replace", "fsync", "write"):  # what can't be linked is copied, and what was moved needn't be unlinked
        assert failed == (len(calls[0]) >= number)
    after = contents(tmp_path)  # reads and verifies each of them
    assert before.keys() == {BEST, LATEST, TRAINING, "run-model-checkpoint-1.safetensors"}
    for name in (BEST, LATEST, TRAINING):
        assert after[name] in (1, 2)
    archived = {name: count for name, count in after.items() if "-model-checkpoint-" in name and name[4].isalpha()}
    assert archived
    assert not [name for name in os.listdir(tmp_path) if name not in after]
    # in the order in which they are written: none is new whose predecessor is old
    ages = [after[LATEST], after[BEST], after[TRAINING]]
    assert ages == sorted(ages, reverse=True)


def test_a_file_says_what_it_is(train, tmp_path):
    start = datetime.now(UTC)
    train([0.5, 0.25], num_batches=2, num_epochs=1, metric_monitor_period=1)

    for name, kind in ((BEST, "model"), (LATEST, "model"), (TRAINING, "training")):
        description = checkpoints.describe(tmp_path / name).description
        assert timedelta() <= datetime.fromisoformat(description.pop("saved_at")) - start < timedelta(minutes=1)
        metrics = description.pop("metrics")
        assert metrics["validation.dataset.loss"] == 0.25
        assert metrics["training_params.batch.lr"] == 1.0
        assert description == {"kind": kind, "backend": "fake", "global_iter": 2, "epoch": 0, "batch_step": 1}


def test_a_model_checkpoint_has_hyper_parameters_and_logs(train, tmp_path):
    train([0.5], num_batches=1, metric_monitor_period=1, model_hyper_parameters={"sizes": [3, 4]})
    state = checkpoints.load(tmp_path / LATEST)

    assert state["kind"] == "model"
    assert state["hyper_parameters"] == {"sizes": [3, 4]}
    assert (state["global_iter"], state["epoch"], state["backend"]) == (1, 0, "fake")


def test_what_a_killed_process_left_is_removed_at_the_start(tmp_path, train):
    left = []
    for base in ("run", "other"):
        name = f".{base}-latest-model-checkpoint.safetensors.{'0' * 8}-1-{'0' * 16}.mlpug-tmp"
        left.append(tmp_path / name)
        left[-1].write_bytes(b"part")

    class AtStart(Callback):
        def on_training_start(self, logs):
            self.found = [path.exists() for path in left]

    at_start = AtStart()
    manager_of([CheckpointManager(tmp_path, "run", metric_to_monitor=None), at_start]).start_training()

    assert at_start.found == [False, True]


def test_in_the_background_each_file_is_of_its_moment_though_training_goes_on(train, tmp_path, monkeypatch):
    real, batches = checkpoints.save, threading.Event()

    def slow(path, state, description=None):
        if description and threading.current_thread() is not threading.main_thread():
            assert batches.wait(10)
        real(path, state, description)

    class After(Callback):
        def on_batch_training_completed(self, batch, logs):
            if self.manager.global_iter == 5:
                batches.set()

    monkeypatch.setattr(checkpoints, "save", slow)
    watch = train(
        [9.0, 1.0, 2.0, 3.0, 4.0, 5.0],
        metric_monitor_period=2,
        create_checkpoint_every=6,
        save_in_background=True,
        extra=[After()],
    )

    assert [files for done, _, files in watch.rests if done < 5] == [{}] * 4
    assert contents(tmp_path) == {BEST: 2, LATEST: 6, TRAINING: 6}


def test_a_save_in_the_background_that_fails_ends_training_at_a_later_batch(tmp_path, monkeypatch):
    real, failed = checkpoints.save, threading.Event()

    def fails(path, state, description=None):
        if threading.current_thread() is threading.main_thread():
            return real(path, state, description)
        failed.set()
        raise CheckpointWriteError("no room")

    class Wait(Callback):
        def on_batch_training_start(self, batch, logs):
            if self.manager.global_iter == 1:
                assert failed.wait(10)

    monkeypatch.setattr(checkpoints, "save", fails)
    saves = CheckpointManager(
        tmp_path, "run", metric_to_monitor=None, create_checkpoint_every=1, save_in_background=True
    )
    manager = manager_of([saves, Wait()], num_batches=50)
    with pytest.raises(CheckpointWriteError, match="no room"):
        manager.start_training()

    assert manager.global_iter < 50
    assert contents(tmp_path) == {LATEST: manager.global_iter, TRAINING: manager.global_iter}


def test_a_save_in_the_background_that_fails_last_is_raised_at_the_end_and_tried_again(train, tmp_path, monkeypatch):
    real = checkpoints.save

    def fails(path, state, description=None):
        if threading.current_thread() is not threading.main_thread():
            raise CheckpointWriteError("no room")
        real(path, state, description)

    monkeypatch.setattr(checkpoints, "save", fails)
    with pytest.raises(CheckpointWriteError, match="no room"):
        train(num_batches=4, create_checkpoint_every=4, save_in_background=True)

    assert contents(tmp_path) == {LATEST: 4, TRAINING: 4}


def test_the_last_save_is_tried_again_where_it_fails_once(train, tmp_path, monkeypatch):
    real, written, failed = checkpoints.save, [], []

    def fails(path, state, description=None):
        if path.name in (LATEST, TRAINING):
            if len(written) == 2 and not failed:
                failed.append(path)
                raise CheckpointWriteError("no room")
            written.append(path.name)
        real(path, state, description)

    monkeypatch.setattr(checkpoints, "save", fails)
    with pytest.raises(CheckpointWriteError, match="no room"):
        train(num_batches=5, create_checkpoint_every=4)

    assert contents(tmp_path) == {LATEST: 5, TRAINING: 5}


def test_an_error_in_writing_ends_training_and_leaves_the_older_file(train, tmp_path, monkeypatch):
    calls = []
    real = os.fsync

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > 20:
            raise OSError(28, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointWriteError, match="Make room on that disk"):
        train(num_batches=50, create_checkpoint_every=1)

    latest, training = count_in(tmp_path / LATEST), count_in(tmp_path / TRAINING)
    assert latest - training in (0, 1)
    assert 1 <= training < 50


def test_a_state_that_a_checkpoint_cant_hold_is_raised(train, callback_with):
    class Stateful(Callback):
        def get_state(self):
            return {"function": print}

    with pytest.raises(StateError, match="function"):
        train(extra=[Stateful()], create_checkpoint_every=2)
