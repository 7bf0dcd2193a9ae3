"""Which training checkpoint a run goes on from."""

import time
import warnings

import numpy as np
import pytest

from mlpug import checkpoints
from mlpug.callbacks import (
    BatchSizeLogger,
    Callback,
    CheckpointManager,
    DescribeLogsObject,
    History,
    LogProgress,
    ProgressBar,
    Tensorboard,
    TestMetricsLogger,
    TrainingMetricsLogger,
)
from mlpug.errors import (
    CheckpointDamagedError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
    ConfigurationError,
    MlpugWarning,
)

BATCHES = [np.array([float(number)]) for number in range(4)]


class Seen(Callback):
    def __init__(self, stop_after=None):
        self.batches, self.stop_after = [], stop_after

    def on_batch_training_completed(self, batch, logs):
        self.batches.append(logs["current"]["global_iter"])
        if self.manager.global_iter == self.stop_after:
            self.manager.stop_training()


@pytest.fixture
def train(make_manager, mean_model):
    """Trains with a CheckpointManager, and gives the numbers of the batches."""

    def train(folder, base=None, resume_from=None, stop_after=None, **options):
        saves = CheckpointManager(folder, base, metric_to_monitor=None, **options)
        seen = Seen(stop_after)
        make_manager(BATCHES, [seen, saves], mean_model, num_epochs=2).start_training(resume_from)
        return seen.batches

    return train


@pytest.fixture
def made_one_after_another(train, tmp_path):
    """The training checkpoints of three runs, each of which got further than the one before."""
    for base, stop_after in (("first", 2), ("second", 3), ("third", 5)):
        train(tmp_path, base, stop_after=stop_after)
        time.sleep(0.002)
    return [tmp_path / f"{base}-training-checkpoint.safetensors" for base in ("first", "second", "third")]


def damage(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_auto_starts_from_the_beginning_where_there_is_nothing(train, tmp_path):
    assert train(tmp_path / "not there yet", resume_from="auto") == list(range(8))


@pytest.mark.parametrize("base", [None, "run"])
def test_auto_goes_on_where_the_run_before_stopped(train, tmp_path, base):
    assert train(tmp_path, base, "auto", stop_after=3) == [0, 1, 2]
    assert train(tmp_path, base, "auto", stop_after=6) == [3, 4, 5]
    assert train(tmp_path, base, "auto") == [6, 7]
    assert train(tmp_path, base, "auto") == []
    assert len(list(tmp_path.glob("*-training-checkpoint.safetensors"))) == 1


def test_auto_takes_the_one_that_was_saved_last(train, tmp_path, made_one_after_another):
    assert train(tmp_path, resume_from="auto") == [5, 6, 7]


def test_auto_looks_at_its_own_name_where_it_has_one(train, tmp_path, made_one_after_another):
    assert train(tmp_path, "first", "auto") == [2, 3, 4, 5, 6, 7]
    assert train(tmp_path, "fourth", "auto") == list(range(8))


def test_auto_falls_back_to_an_older_one_that_is_intact_and_says_which_were_damaged(
    train, tmp_path, made_one_after_another
):
    first, second, third = made_one_after_another
    damage(third)
    second.write_bytes(b"")
    with pytest.warns(MlpugWarning, match="goes on from the older checkpoint") as warned:
        assert train(tmp_path, resume_from="auto") == [2, 3, 4, 5, 6, 7]

    (said,) = [str(warning.message) for warning in warned]
    where, *damaged = said.splitlines()
    assert str(first) in where
    assert {line.split()[1] for line in damaged} == {str(second), str(third)}


def test_auto_never_starts_again_over_what_is_damaged(train, tmp_path, made_one_after_another):
    for path in made_one_after_another:
        damage(path)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(CheckpointDamagedError, match="only damaged training checkpoints") as raised:
        train(tmp_path, resume_from="auto")

    assert all(str(path) in str(raised.value) for path in made_one_after_another)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_path_is_taken_as_it_is(train, tmp_path, made_one_after_another):
    assert train(tmp_path / "elsewhere", resume_from=made_one_after_another[1]) == [3, 4, 5, 6, 7]
    assert train(tmp_path / "elsewhere", resume_from=str(made_one_after_another[0])) == [2, 3, 4, 5, 6, 7]
    with pytest.raises(CheckpointNotFoundError):
        train(tmp_path, resume_from=tmp_path / "none.safetensors")
    damage(made_one_after_another[1])
    with pytest.raises(CheckpointDamagedError):
        train(tmp_path, resume_from=made_one_after_another[1])
    for path in (made_one_after_another[0], made_one_after_another[2]):
        checkpoints.verify(path)


@pytest.mark.parametrize("base", [None, "third"])
def test_a_link_that_leads_nowhere_is_no_beginning(train, tmp_path, made_one_after_another, base):
    third = made_one_after_another[2]
    third.rename(tmp_path / "elsewhere")
    third.symlink_to(tmp_path / "moved")
    if base is None:
        with pytest.warns(MlpugWarning, match=r"older checkpoint .*second(.|\n)*link to .*moved, where"):
            assert train(tmp_path, base, "auto") == [3, 4, 5, 6, 7]
        return
    with pytest.raises(CheckpointDamagedError, match=r"third-training.* is a link to .*moved, where there is no file"):
        train(tmp_path, base, "auto")
    assert third.is_symlink()


@pytest.fixture
def saved(make_manager, mean_model, tmp_path):
    """The training checkpoint of a run that ended within its second epoch, and of a callback with a state."""

    def saved(callback, stop_after=6):
        saves = CheckpointManager(tmp_path, "run", metric_to_monitor=None)
        make_manager(BATCHES, [Seen(stop_after), callback, saves], mean_model, num_epochs=2).start_training()
        return tmp_path / "run-training-checkpoint.safetensors"

    return saved


def test_fewer_epochs_than_are_begun_are_refused(saved, make_manager, mean_model):
    path = saved(Seen())
    with pytest.raises(CheckpointMismatchError, match="made in epoch 1, counted from 0, and num_epochs is 1"):
        make_manager(BATCHES, [], mean_model, num_epochs=1).start_training(path)


def parts_of(state, path=()):
    """The paths of all that must be there."""
    for name, value in state.items():
        if path or name not in ("kind", "callbacks"):
            yield (*path, name)
        if isinstance(value, dict) and name in ("configuration", "run"):
            yield from parts_of(value, (*path, name))


def test_a_file_that_lacks_a_part_is_refused_by_name(saved, make_manager, mean_model, tmp_path):
    whole = checkpoints.load(saved(Seen()))
    paths = [(*path,) for path in parts_of(whole)]
    assert ("run", "batches_done") in paths
    assert ("configuration", "versions") in paths
    for *outer, name in paths:
        state = checkpoints.load(tmp_path / "run-training-checkpoint.safetensors")
        of = state
        for part in outer:
            of = of[part]
        if (*outer, name) in NOT_READ:
            continue
        del of[name]
        checkpoints.save(tmp_path / "lacks.safetensors", state)
        with pytest.raises(CheckpointMismatchError, match=f"has no '{name}', which a training checkpoint has"):
            make_manager(BATCHES, [], mean_model, num_epochs=2).start_training(tmp_path / "lacks.safetensors")


# For who reads the file; what files of mlpug 0.1 don't have yet.
NOT_READ = {("configuration", "num_epochs"), ("configuration", "data")}


def test_auto_needs_somewhere_to_look(train, make_manager, mean_model, tmp_path):
    with pytest.raises(ConfigurationError, match="there is none in callbacks"):
        make_manager(BATCHES, [], mean_model).start_training("auto")
    with pytest.raises(ConfigurationError, match="there is none in callbacks"):
        train(tmp_path, resume_from="auto", create_training_checkpoint=False)
    for bad in (1, True, object()):
        with pytest.raises(ConfigurationError, match='resume_from must be None, a path or "auto"'):
            train(tmp_path, resume_from=bad)


class Kept(Callback):
    def __init__(self, state=None, name="Kept"):
        self.state, self.key, self.got = state, name, "nothing"

    @property
    def name(self):
        return self.key

    def get_state(self):
        return self.state

    def set_state(self, state):
        self.got = state


def told_when_resumed(path, make_manager, model, *callbacks):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make_manager(BATCHES, callbacks, model, num_epochs=2).start_training(path)
    return [str(warning.message) for warning in caught if warning.category is MlpugWarning]


@pytest.mark.parametrize("state", [1, 0, False, "", [None, 3], {"a": {"b": np.zeros(0)}}], ids=repr)
def test_the_state_of_a_renamed_callback_is_dropped_by_name(saved, make_manager, mean_model, state):
    path, other = saved(Kept(state, "Patience")), Kept(name="Other")
    (told,) = told_when_resumed(path, make_manager, mean_model, other)
    assert "has the state of the callback 'Patience', which isn't among the callbacks of this run" in told
    assert "none of the callback 'Other', which this run has" in told
    assert other.got == "nothing"


def test_that_of_a_removed_one_too_in_one_warning(saved, make_manager, mean_model):
    path = saved(Kept({"wait": 2}, "First"))
    state = checkpoints.load(path)
    state["callbacks"] |= {"Second": [1], "LRSchedulerWrapper: *": {"num_steps": 4}}
    checkpoints.save(path, state)
    (told,) = told_when_resumed(path, make_manager, mean_model)
    assert "'First', the callback 'Second', the callback 'LRSchedulerWrapper: *'" in told
    assert "which this run has" not in told


@pytest.mark.parametrize("state", [None, {}, [], {"a": [], "b": {"c": None}}], ids=repr)
def test_nothing_is_said_where_nothing_is_lost(saved, make_manager, mean_model, state):
    assert told_when_resumed(saved(Kept(state)), make_manager, mean_model, Kept(name="Other")) == []


def test_nothing_is_said_where_it_is_taken(saved, make_manager, mean_model):
    kept = Kept()
    assert told_when_resumed(saved(Kept(3)), make_manager, mean_model, Kept(name="New"), kept) == []
    assert kept.got == 3


def test_observers_of_mlpugs_own_can_be_left_out(make_manager, mean_model, evaluator, tmp_path):
    observers = [
        TrainingMetricsLogger(evaluator),
        TestMetricsLogger(BATCHES, "validation", evaluator),
        History(),
        History(batch_level=True),
        DescribeLogsObject(),
        LogProgress(),
        ProgressBar(),
        BatchSizeLogger(),
        Tensorboard("run", ["training.batch.loss"], directory=tmp_path / "curves"),
        CheckpointManager(tmp_path, "run", metric_monitor_period=1),
        Seen(stop_after=6),
    ]
    make_manager(BATCHES, observers, mean_model, num_epochs=2).start_training()
    path = tmp_path / "run-training-checkpoint.safetensors"
    names = set(checkpoints.load(path)["callbacks"])
    assert len(names) >= 6
    assert told_when_resumed(path, make_manager, mean_model) == []
