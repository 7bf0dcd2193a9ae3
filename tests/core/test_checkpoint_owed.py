"""What was due and couldn't be written stays due, where the run goes on."""

import pytest
from core.checkpoint_runs import BEST, LATEST, TRAINING, Metric, StopAt, contents, manager_of

from mlpug import checkpoints
from mlpug.adapter import Process
from mlpug.callbacks import Callback, CheckpointManager
from mlpug.callbacks.checkpoint_owed import Owed
from mlpug.callbacks.checkpoint_schedule import NOTHING, Plan
from mlpug.errors import CheckpointWriteError, MlpugWarning

NEVER = {"create_latest_model_checkpoint": False, "create_training_checkpoint": False}


def archived(global_iter):
    return f"run-model-checkpoint-{global_iter}.safetensors"


@pytest.fixture
def disk(monkeypatch):
    """Lets saves and copies to a file fail: ``disk.fails = {name: how often}``; `tried` has each attempt."""

    class Disk:
        def __init__(self):
            self.fails, self.tried = {}, []

        def attempt(self, path):
            kind = next((kind for kind in self.fails if kind in path.name), None)
            self.tried.append(path.name)
            if kind is not None and self.fails[kind] > 0:
                self.fails[kind] -= 1
                raise CheckpointWriteError(f"no room for {path.name}")

    disk = Disk()
    save, copy = checkpoints.save, checkpoints.copy

    def saving(path, *more):
        disk.attempt(path)
        save(path, *more)

    def copying(source, target):
        disk.attempt(target)
        copy(source, target)

    monkeypatch.setattr(checkpoints, "save", saving)
    monkeypatch.setattr(checkpoints, "copy", copying)
    return disk


def run(directory, values=None, num_batches=6, extra=(), policy="log", resume_from=None, processes=None, **options):
    options = {**({"metric_to_monitor": None} if values is None else {"metric_monitor_period": 1}), **options}
    saves = CheckpointManager(directory, "run", **options)
    metric = Metric([0.0] * 99 if values is None else values)
    manager = manager_of([metric, saves, *extra], num_batches, on_callback_error=policy)
    if processes is not None:
        processes(manager.trainer)
    manager.start_training(resume_from)
    return manager


@pytest.mark.parametrize("in_background", [False, True])
@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("model-checkpoint-2", {**NEVER, "archive_last_model_checkpoint_every": 2}, {archived(4), archived(6)}),
        ("latest", {"create_checkpoint_every": 4, "create_training_checkpoint": False}, {LATEST}),
        ("training", {"create_checkpoint_every": 4, "create_latest_model_checkpoint": False}, {TRAINING}),
    ],
)
def test_what_failed_once_is_written_at_the_next_batch(tmp_path, disk, kind, options, expected, in_background):
    disk.fails = {kind: 1}
    seen = []

    class Look(Callback):
        def on_rest(self, logs, is_last):
            if in_background:
                saves._saver._join()
            if not is_last:
                seen.append((self.manager.global_iter, contents(tmp_path)))

    saves = CheckpointManager(tmp_path, "run", metric_to_monitor=None, save_in_background=in_background, **options)
    manager_of([saves, Look()], num_batches=6, on_callback_error="log").start_training()

    due = 2 if "model-checkpoint" in kind else 4
    before, after = dict(seen[:due])[due], dict(seen[: due + 1])[due + 1]
    assert before == {}
    name = archived(due + 1) if "model-checkpoint" in kind else next(iter(expected))
    assert after == {name: due + 1}
    assert expected <= set(contents(tmp_path))


def test_an_archived_model_is_named_for_the_batch_that_it_is_of(tmp_path, disk):
    disk.fails = {archived(2): 1}
    run(tmp_path, archive_last_model_checkpoint_every=2, create_checkpoint_every=2)
    assert contents(tmp_path) == {
        LATEST: 6,
        TRAINING: 6,
        archived(3): 3,
        archived(4): 4,
        archived(6): 6,
    }


def test_a_disk_that_stays_full_is_tried_ever_more_rarely(tmp_path, disk):
    disk.fails = {"model-checkpoint": 99}
    run(tmp_path, num_batches=40, archive_last_model_checkpoint_every=39, **NEVER)
    assert disk.tried == [archived(39), archived(40), archived(40)]
    disk.tried.clear()
    run(tmp_path, num_batches=40, archive_last_model_checkpoint_every=30, **NEVER)
    # after 1, 2 and 4 more; the end of the epoch is no batch, and the end of training the last chance
    assert disk.tried == [archived(number) for number in (30, 31, 33, 37, 40)]


def test_the_best_file_is_the_best_that_could_be_written(tmp_path, disk):
    disk.fails = {BEST: 0}
    values = [5.0, 1.0, 3.0, 4.0, 2.0, 2.5]
    found = []

    class Look(Callback):
        def on_batch_training_start(self, batch, logs):
            disk.fails[BEST] = self.manager.global_iter == 1  # the second batch's

        def on_rest(self, logs, is_last):
            found.append((contents(tmp_path)[BEST], logs["best"]["global_iter"]))

    with pytest.warns(MlpugWarning) as told:
        run(tmp_path, values, extra=[Look()], **NEVER)
    # whose model it is, and the batch at which the metric was best
    assert found[:6] == [(1, 0), (1, 1), (3, 1), (3, 1), (5, 1), (5, 1)]
    (said,) = {str(warning.message) for warning in told}
    assert "validation.dataset.loss was 1, is lost" in said
    assert "could be written: it had 2" in said
    description = checkpoints.describe(tmp_path / BEST).description
    assert description["metrics"]["validation.dataset.loss"] == 2.0
    assert description["global_iter"] == 5


def test_a_better_one_that_is_written_is_the_best_again(tmp_path, disk):
    disk.fails = {BEST: 1}
    run(tmp_path, [5.0, 4.0, 6.0], num_batches=3, **NEVER)
    assert contents(tmp_path) == {BEST: 2}


def test_where_none_could_be_written_the_next_one_is_the_best(tmp_path, disk):
    disk.fails = {BEST: 1}
    with pytest.warns(MlpugWarning, match=r"was 1, is lost.*it had 3"):
        run(tmp_path, [1.0, 3.0, 4.0], num_batches=3, **NEVER)
    assert contents(tmp_path) == {BEST: 2}


def test_after_an_error_the_best_model_is_still_there(tmp_path, disk):
    """It is that of the batch at which training ends."""
    disk.fails = {BEST: 1}
    with pytest.raises(CheckpointWriteError, match="no room"):
        run(tmp_path, [5.0, 1.0], num_batches=2, policy="raise", **NEVER)
    assert contents(tmp_path) == {BEST: 1}
    assert checkpoints.describe(tmp_path / BEST).description["metrics"]["validation.dataset.loss"] == 5.0


def test_in_the_background_too(tmp_path, disk):
    disk.fails = {BEST: 1}
    saves = CheckpointManager(tmp_path, "run", metric_monitor_period=1, save_in_background=True, **NEVER)

    class Waits(Metric):
        def on_batch_training_start(self, batch, logs):
            saves._saver._join()

    manager = manager_of([Waits([1.0, 3.0, 2.0, 9.0]), saves], num_batches=4, on_callback_error="log")
    with pytest.warns(MlpugWarning, match=r"was 1, is lost.*it had 2"):
        manager.start_training()
    assert contents(tmp_path) == {BEST: 3}


def test_a_resumed_run_knows_that_the_best_was_lost(tmp_path, disk):
    options = {"create_checkpoint_every": 1, "metric_checkpoint_threshold": 4.0}
    values = [1.0, 9.0, 5.0, 3.0]
    disk.fails = {BEST: 1}
    with pytest.warns(MlpugWarning, match=r"was 1, is lost.* is the best one that was before"):
        run(tmp_path, values, num_batches=4, extra=[StopAt(2)], **options)
    assert BEST not in contents(tmp_path)
    with pytest.warns(MlpugWarning, match=r"was 1, is lost.*it had 3"):
        run(tmp_path, values, num_batches=4, resume_from="auto", **options)
    assert contents(tmp_path)[BEST] == 4


def test_others_take_part_only_in_what_all_know_of(tmp_path, disk, on_rank):
    def two(trainer):
        trainer.adapter = on_rank(trainer.adapter, 0)
        assert trainer.process == Process(0, 2)

    disk.fails = {"model-checkpoint-2": 1, BEST: 0}
    run(
        tmp_path,
        num_batches=6,
        processes=two,
        archive_last_model_checkpoint_every=2,
        create_checkpoint_every=3,
        keep_archived=9,
    )
    # the third batch gathers the model anyway
    assert sorted(contents(tmp_path)) == sorted([LATEST, TRAINING, archived(3), archived(4), archived(6)])
    assert disk.tried.count(archived(3)) == 1


def test_what_others_decide_of_the_best_does_not_depend_on_the_disk():
    owed = Owed()
    owed.failed(Plan(save_best=True, save_latest=True, archive=True, save_training=True), (4, "batch"))
    assert owed.added_to(NOTHING, (5, "batch"), is_last=True, is_alone=False) == NOTHING
    assert owed.added_to(Plan(save_training=True), (5, "batch"), is_last=False, is_alone=False) == Plan(
        save_training=True
    )
    all_files = Plan(save_latest=True, archive=True)
    assert owed.added_to(Plan(save_latest=True), (5, "batch"), is_last=False, is_alone=False) == all_files
