"""A run that goes on from its state equals one that never stopped, on every adapter."""

import os
import re
import signal
from typing import Any, NamedTuple

import numpy as np
import pytest
from contract.backends.base import make_batches

from mlpug import checkpoints
from mlpug.callbacks import Callback, TrainingMetricsLogger
from mlpug.errors import CheckpointMismatchError, MlpugWarning
from mlpug.evaluation import MetricEvaluator
from mlpug.trainers import TrainingManager

SIZES = (4, 4, 4, 3)
NUM_EPOCHS = 3


class Story(Callback):
    """Writes down what it hears, with what the logs say, and counts in its own state."""

    def __init__(self, disturb=None):
        self.told = []
        self.count = 0
        self.disturb = disturb

    def tell(self, hook, logs, **values):
        current = logs["current"]
        self.told.append((hook, current["epoch"], current["batch_step"], current["global_iter"], values))
        if self.disturb is not None:
            self.disturb(self, hook, logs)

    def on_epoch_start(self, logs):
        self.tell("epoch_start", logs)

    def on_batch_training_start(self, batch, logs):
        self.tell("batch_start", logs, x=float(np.asarray(batch[0]).sum()))

    def on_batch_training_completed(self, batch, logs):
        self.count += 1
        loss, window = logs.at("training.batch.loss"), logs.at("training.sliding_window.loss")
        self.tell(
            "batch_completed", logs, loss=loss, window=window, count=self.count, lr=logs.at("training_params.batch.lr")
        )

    def on_epoch_completed(self, logs):
        self.tell("epoch_completed", logs)

    def get_state(self):
        return {"count": self.count}

    def set_state(self, state):
        self.count = state["count"]


class Keeper(Callback):
    """Saves the state at each rest."""

    def __init__(self, folder):
        self.folder = folder
        self.saved = []  # (path, whether it is the last)

    def on_rest(self, logs, is_last):
        path = self.folder / f"{len(self.saved)}.safetensors"
        checkpoints.save(path, self.manager.get_state())
        self.saved.append((path, is_last))


class Run:
    """A fresh model, and everything around it."""

    def __init__(
        self,
        backend,
        folder=None,
        num_epochs=NUM_EPOCHS,
        dataset=None,
        disturb=None,
        spy=None,
        **options,
    ):
        self.backend = type(backend)()
        trainer = self.backend.trainer(**options)
        self.story = Story(disturb)
        self.native_told = []
        self.keeper = None if folder is None else Keeper(folder)
        metrics = TrainingMetricsLogger(metric_evaluator=MetricEvaluator(trainer=trainer), sliding_window_length=3)
        native = self.backend.native_callback(self.native_told.append)
        callbacks = [] if self.keeper is None else [self.keeper]  # first: it must hear of a rest after all the others
        self.manager = TrainingManager(
            trainer,
            make_batches(SIZES) if dataset is None else dataset,
            num_epochs=num_epochs,
            callbacks=[*callbacks, metrics, native, self.story],
        )
        trainer.set_training_model(self.backend.training_model(spy))

    def start(self, resume_from=None):
        self.manager.start_training(resume_from=resume_from)
        return self


def assert_goes_on_like(resumed, whole):
    assert whole.story.told[len(whole.story.told) - len(resumed.story.told) :] == resumed.story.told
    heard = [event for event in resumed.native_told if event != "training_started"]
    assert whole.native_told[len(whole.native_told) - len(heard) :] == heard
    assert_same(resumed.backend.weights(), whole.backend.weights())
    ours, theirs = resumed.manager.logs.snapshot(), whole.manager.logs.snapshot()
    for logs in (ours, theirs):
        del logs["current"]["training_params"]  # durations
    assert ours == theirs


def assert_same(weights, expected):
    assert weights.keys() == expected.keys()
    for name, weight in weights.items():
        np.testing.assert_array_equal(weight, expected[name])


def without_length(batches):
    class Stream:
        def __iter__(self):
            return iter(batches)

    return Stream()


@pytest.mark.parametrize("kind", ["list", "without length"])
def test_a_run_resumed_at_any_rest_equals_one_that_never_stopped(backend, tmp_path, kind):
    batches = make_batches(SIZES)
    dataset = batches if kind == "list" else without_length(batches)
    whole = Run(backend, tmp_path, dataset=dataset).start()
    saved = [path for path, is_last in whole.keeper.saved if not is_last]
    assert len(saved) == NUM_EPOCHS * (len(SIZES) + 1)
    plain = Run(backend, dataset=dataset).start()
    assert_goes_on_like(plain, whole)
    starts = []
    for path in saved:
        resumed = Run(backend, dataset=dataset).start(path)
        assert_goes_on_like(resumed, whole)
        starts.append(len(resumed.story.told))
    steps = len(SIZES)
    assert starts == [  # two for each batch that is left, and the start and the end of each epoch
        2 * (steps + 1) * (NUM_EPOCHS - 1 - rest // (steps + 1)) + max(0, 2 * (steps - rest % (steps + 1)) - 1)
        for rest in range(len(saved))
    ]


@pytest.mark.parametrize("kind", ["list", "without length"])
def test_a_run_on_batches_in_parts_resumed_at_any_rest_equals_one_that_never_stopped(backend, tmp_path, kind):
    """Of 7 batches, two together, the last is left alone; on Lightning there is dropout in each chunk."""
    options = {"gradient_accumulation_steps": 2, "batch_chunk_size": 2, "num_epochs": 2}
    batches = make_batches((4, 2, 3, 4, 2, 2, 3))
    dataset = batches if kind == "list" else without_length(batches)
    whole = Run(backend, tmp_path, dataset=dataset, **options).start()
    sums = [values["x"] for hook, *_, values in whole.story.told if hook == "batch_start"]
    expected = [sum(x.sum() for x, _ in batches[first : first + 2]) for first in range(0, 7, 2)]
    np.testing.assert_allclose(sums, expected * 2, rtol=1e-5)
    saved = [path for path, is_last in whole.keeper.saved if not is_last]
    assert len(saved) == 2 * (4 + 1)
    assert_goes_on_like(Run(backend, dataset=dataset, **options).start(), whole)
    for path in saved:
        assert_goes_on_like(Run(backend, dataset=dataset, **options).start(path), whole)


class Stateful:
    """Says itself where it is, as torchdata's StatefulDataLoader does, and not how many batches it has."""

    def __init__(self, batches):
        self.batches, self.next = batches, 0

    def __iter__(self):
        while self.next < len(self.batches):
            self.next += 1
            yield self.batches[self.next - 1]
        self.next = 0

    def state_dict(self):
        return {"next": self.next}

    def load_state_dict(self, state):
        self.next = state["next"]


@pytest.mark.parametrize("num_batches", [6, 5])
def test_two_together_of_a_stateful_dataset_go_on_with_the_next_also_where_the_last_is_alone(
    backend, tmp_path, num_batches
):
    options = {"gradient_accumulation_steps": 2, "num_epochs": 1}
    batches = make_batches((2,) * num_batches)
    whole = Run(backend, tmp_path, dataset=Stateful(batches), **options).start()
    saved = [path for path, is_last in whole.keeper.saved if not is_last]
    assert len(saved) == 3 + 1
    for path in saved:
        assert_goes_on_like(Run(backend, dataset=Stateful(batches), **options).start(path), whole)


class Noted(NamedTuple):
    x: Any
    y: Any
    note: str = "fine"


@pytest.mark.parametrize("kind", [list, Stateful])
def test_an_error_in_a_later_chunk_leaves_the_batch_before_to_go_on_from(backend, tmp_path, kind):
    options = {"gradient_accumulation_steps": 2, "batch_chunk_size": 2, "num_epochs": 1}
    batches = [Noted(*batch) for batch in make_batches((4, 2, 5, 4))]
    spoiled = [*batches[:3], batches[3]._replace(note="fails")]

    def fail(batch, settings, inference_mode):
        """Compiled models see the note too, when they are traced for it."""
        if batch.note == "fails":
            raise ZeroDivisionError("on purpose")

    ended = Run(backend, tmp_path, dataset=kind(spoiled), spy=fail, **options)
    with pytest.raises(ZeroDivisionError):
        ended.start()
    path, is_last = ended.keeper.saved[-1]
    assert is_last
    resumed = Run(backend, dataset=kind(batches), **options).start(path)
    assert resumed.story.told[0][:4] == ("batch_start", 0, 1, 1)
    assert_goes_on_like(resumed, Run(backend, dataset=kind(batches), **options).start())


def test_the_last_rest_is_that_of_the_end(backend, tmp_path):
    whole = Run(backend, tmp_path).start()
    assert [is_last for _, is_last in whole.keeper.saved].count(True) == 1
    path, is_last = whole.keeper.saved[-1]
    assert is_last
    finished = Run(backend).start(path)
    assert finished.story.told == []
    assert_same(finished.backend.weights(), whole.backend.weights())
    longer, all_at_once = (
        Run(backend, num_epochs=NUM_EPOCHS + 1).start(path),
        Run(backend, num_epochs=NUM_EPOCHS + 1).start(),
    )
    assert_goes_on_like(longer, all_at_once)


def test_a_resumed_run_can_be_resumed(backend, tmp_path):
    whole = Run(backend, tmp_path).start()
    (tmp_path / "again").mkdir()
    resumed = Run(backend, tmp_path / "again").start(whole.keeper.saved[1][0])
    assert_goes_on_like(Run(backend).start(resumed.keeper.saved[0][0]), whole)
    assert_goes_on_like(Run(backend).start(resumed.keeper.saved[4][0]), whole)


@pytest.mark.parametrize("hook", ["batch_start", "batch_completed"])
@pytest.mark.parametrize("what", ["stop", "interrupt", "error"])
def test_what_ends_training_leaves_a_state_to_go_on_from(backend, tmp_path, hook, what):
    def end(story, told, logs):
        if told != hook or logs["current"]["global_iter"] != 5:
            return
        if what == "stop":
            story.manager.stop_training()
        elif what == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
        else:
            raise ZeroDivisionError("on purpose")

    ended = Run(backend, tmp_path, disturb=end)
    if what == "error":
        with pytest.raises(ZeroDivisionError):
            ended.start()
    else:
        ended.start()
    path, is_last = ended.keeper.saved[-1]
    assert is_last
    whole = Run(backend).start()
    resumed = Run(backend).start(path)
    # An error before the batch is trained leaves the one before; else that batch is done.
    position = resumed.story.told[0][3]
    assert position == (5 if (what, hook) == ("error", "batch_start") else 6)
    assert_same(resumed.backend.weights(), whole.backend.weights())
    if (what, hook) != ("error", "batch_completed"):  # where the story had not heard of it all, it counts one less
        assert_goes_on_like(resumed, whole)


def test_native_callbacks_hear_of_the_end_of_an_epoch_once_also_where_it_was_cut_short(backend, tmp_path):
    def stop(story, told, logs):
        if told == "batch_completed" and logs["current"]["global_iter"] == 5:
            story.manager.stop_training()

    ended = Run(backend, tmp_path, disturb=stop).start()
    resumed = Run(backend).start(ended.keeper.saved[-1][0])

    assert ended.native_told.count("epoch_ended") == 1
    assert resumed.native_told.count("epoch_ended") == NUM_EPOCHS - 1


def test_an_error_at_the_end_of_an_epoch_leaves_its_last_batch(backend, tmp_path):
    def fail(story, told, logs):
        if told == "epoch_completed" and logs["epoch"] == 1:
            raise ZeroDivisionError("on purpose")

    ended = Run(backend, tmp_path, disturb=fail)
    with pytest.raises(ZeroDivisionError):
        ended.start()
    resumed = Run(backend).start(ended.keeper.saved[-1][0])
    assert resumed.story.told[0][:3] == ("epoch_completed", 1, 3)
    assert_goes_on_like(resumed, Run(backend).start())


def test_a_signal_that_ends_the_process_is_its_exit_status(backend, tmp_path):
    def terminate(story, told, logs):
        if told == "batch_completed" and logs["current"]["global_iter"] == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    ended = Run(backend, tmp_path, disturb=terminate)
    with pytest.raises(SystemExit) as exit_info:
        ended.start()
    assert exit_info.value.code == 128 + 15
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert_goes_on_like(Run(backend).start(ended.keeper.saved[-1][0]), Run(backend).start())


def test_an_early_stop_between_epochs_is_resumed_with_the_next(backend, tmp_path):
    def stop(story, told, logs):
        if told == "epoch_completed" and logs["epoch"] == 0:
            story.manager.stop_training()

    ended = Run(backend, tmp_path, disturb=stop).start()
    resumed = Run(backend).start(ended.keeper.saved[-1][0])
    assert resumed.story.told[0][:2] == ("epoch_start", 1)
    assert_goes_on_like(resumed, Run(backend).start())


def test_it_is_refused_to_go_on_with_something_else(backend, tmp_path):
    whole = Run(backend, tmp_path).start()
    within, at_end = whole.keeper.saved[5][0], whole.keeper.saved[9][0]
    with pytest.raises(CheckpointMismatchError, match="num_epochs is 1"):
        Run(backend, num_epochs=1).start(at_end)
    with pytest.raises(CheckpointMismatchError, match="num_batches_per_epoch was 4, and it is 3 now"):
        Run(backend, dataset=make_batches(SIZES[:3])).start(within)
    checkpoints.save(tmp_path / "other.safetensors", {"kind": "model"})
    with pytest.raises(CheckpointMismatchError, match="not a training checkpoint"):
        Run(backend).start(tmp_path / "other.safetensors")
    state = checkpoints.load(within)
    state["backend"] = "another"
    checkpoints.save(tmp_path / "other.safetensors", state)
    with pytest.raises(CheckpointMismatchError, match="run on another"):
        Run(backend).start(tmp_path / "other.safetensors")
    state = checkpoints.load(within)
    state["configuration"]["batch_size"] = 1000
    checkpoints.save(tmp_path / "other.safetensors", state)
    with pytest.raises(CheckpointMismatchError, match="batch_size was 1000"):
        Run(backend).start(tmp_path / "other.safetensors")


def test_it_is_refused_to_go_on_with_another_optimizer_or_model(backend, tmp_path):
    whole = Run(backend, tmp_path).start()
    within = whole.keeper.saved[5][0]
    other = Run(backend)
    before = other.backend.weights()
    state = checkpoints.load(within)
    state["optimizers"] = {"another": state["optimizers"]["optimizer"]}
    checkpoints.save(tmp_path / "other.safetensors", state)
    with pytest.raises(CheckpointMismatchError, match="another"):
        other.start(tmp_path / "other.safetensors")
    assert_same(other.backend.weights(), before)
    state = checkpoints.load(within)
    path, array = next((path, array) for path, array in state["model"]["model"].items() if np.ndim(array))
    state["model"]["model"][path] = np.concatenate([array, array])
    checkpoints.save(tmp_path / "other.safetensors", state)
    with pytest.raises(CheckpointMismatchError, match=re.escape(path)):
        other.start(tmp_path / "other.safetensors")
    assert_same(other.backend.weights(), before)


def test_other_versions_are_told(backend, tmp_path):
    whole = Run(backend, tmp_path).start()
    path = whole.keeper.saved[5][0]
    state = checkpoints.load(path)
    state["configuration"]["versions"]["numpy"] = "1.0"
    checkpoints.save(path, state)
    with pytest.warns(MlpugWarning, match=f"numpy 1.0 there, {np.__version__} here"):
        resumed = Run(backend).start(path)
    assert_goes_on_like(resumed, whole)
