"""A run of a compiled model that goes on from any of its checkpoints equals the one that never stopped."""

import os
import signal
import time

import keras
import numpy as np
import pytest
from compiled_models import (
    BATCH_SIZE,
    NUM_EPOCHS,
    PortedRun,
    Sequence,
    arrays,
    assert_same_weights,
    batches,
    functional,
    own_compute_loss,
    own_train_step,
    sequential,
    unbuilt,
)

from mlpug.callbacks import Callback, CheckpointManager
from mlpug.errors import CheckpointMismatchError

BATCHES_PER_EPOCH = 4


def two_outputs():
    x, y = arrays()
    return x, {"kind": y, "size": x.sum(axis=1, keepdims=True)}


class ShuffledInPlace(Sequence):
    """What it shuffled before decides what it makes of the next shuffle."""

    def on_epoch_begin(self):
        np.random.shuffle(self.items)

    def on_epoch_end(self):
        np.random.shuffle(self.items)


OF_ARRAYS = {"batch_size": BATCH_SIZE, "validation_data": arrays(9, seed=1)}
CASES = {
    "unbuilt, arrays": (unbuilt, arrays, OF_ARRAYS),
    "sequential, list": (sequential, batches, {"validation_data": arrays(9, seed=1)}),
    "unbuilt, PyDataset": (unbuilt, lambda: ShuffledInPlace(batches()), {}),
    "functional": (functional, two_outputs, {"batch_size": BATCH_SIZE, "validation_data": two_outputs()}),
    "own compute_loss": (own_compute_loss, arrays, OF_ARRAYS),
    "own train_step": (own_train_step, arrays, OF_ARRAYS),
}


def assert_goes_on_like(resumed, whole):
    assert_same_weights(resumed.model, whole.model)
    for of_resumed, of_whole in ((resumed.logs.seen, whole.logs.seen), (resumed.ours.seen, whole.ours.seen)):
        assert of_resumed == of_whole[len(of_whole) - len(of_resumed) :]
    for one, other in zip(resumed.model.optimizer.variables, whole.model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(one), keras.ops.convert_to_numpy(other))


@pytest.mark.timeout(600)  # each run compiles its own step
@pytest.mark.parametrize("case", CASES)
def test_resumed_after_any_batch_it_equals_a_run_that_never_stopped(backend, tmp_path, case):
    make, data, options = CASES[case]
    whole = PortedRun(backend.mlp, make, data, folder=tmp_path, **options).start()
    paths = [path for path, _ in whole.keeper.saved]
    assert len(paths) == NUM_EPOCHS * (BATCHES_PER_EPOCH + 1) + 1
    # All of them for one case; else those that differ: the first batch, the last of an epoch, one in a later epoch.
    for place in range(len(paths) - 1) if case == "sequential, list" else (0, 3, 6):
        resumed = PortedRun(backend.mlp, make, data, seed=1000 + place, **options).start(paths[place])
        assert_goes_on_like(resumed, whole)
        done = place - place // (BATCHES_PER_EPOCH + 1) + (place % (BATCHES_PER_EPOCH + 1) < BATCHES_PER_EPOCH)
        assert sum(event[0] == "batch_end" for event in resumed.ours.seen) == NUM_EPOCHS * BATCHES_PER_EPOCH - done


class SlowAndNoisy(Sequence):
    """Draws noise for each batch; on TensorFlow in a thread that reads ahead, and is in the middle of it at a save."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        x = x + np.random.normal(size=x.shape).astype(x.dtype)
        time.sleep(0.05)
        return x + np.random.normal(size=x.shape).astype(x.dtype), y


def test_what_is_read_ahead_while_a_checkpoint_is_made_is_drawn_once(backend, tmp_path):
    def run(folder=None, seed=5):
        return PortedRun(backend.mlp, sequential, lambda: SlowAndNoisy(batches()), folder=folder, seed=seed)

    whole = run(tmp_path).start()
    for place in (0, 1, 6):
        assert_goes_on_like(run(seed=1000 + place).start(whole.keeper.saved[place][0]), whole)


class At(Callback):
    """Does something at the end of a batch."""

    def __init__(self, global_iter, action):
        self.global_iter, self.action = global_iter, action

    def on_batch_training_completed(self, batch, logs):
        if logs["current"]["global_iter"] == self.global_iter:
            self.action()


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("make", [unbuilt, own_train_step])
def test_ctrl_c_saves_a_training_checkpoint_that_goes_on(backend, tmp_path, make):
    def run(*more):
        manager = CheckpointManager(tmp_path / "checkpoints", batch_level=False)
        return PortedRun(backend.mlp, make, arrays, callbacks=[manager, *more], **OF_ARRAYS)

    whole = PortedRun(backend.mlp, make, arrays, **OF_ARRAYS).start()
    stopped = run(At(5, interrupt)).start()
    assert [event[0] for event in stopped.ours.seen].count("batch_end") == 6
    assert [event[0] for event in stopped.logs.seen].count("epoch_end") == 1  # no validation, and no end is told
    assert_goes_on_like(run().start("auto"), whole)


def test_an_error_in_validation_leaves_the_last_batch(backend, tmp_path):
    class Fails(keras.callbacks.Callback):
        def on_test_batch_end(self, batch, logs=None):
            if self.model.optimizer.iterations == 2 * BATCHES_PER_EPOCH:
                raise ZeroDivisionError("on purpose")

    whole = PortedRun(backend.mlp, unbuilt, arrays, **OF_ARRAYS).start()
    ended = PortedRun(backend.mlp, unbuilt, arrays, folder=tmp_path, natives=[Fails()], **OF_ARRAYS)
    with pytest.raises(ZeroDivisionError):
        ended.start()
    path, _ = ended.keeper.saved[-1]
    assert_goes_on_like(PortedRun(backend.mlp, unbuilt, arrays, **OF_ARRAYS).start(path), whole)


def test_an_error_in_the_step_leaves_the_batch_before(backend, tmp_path):
    def with_a_bad_batch():
        x, y = batches()[1]
        return [*batches()[:3], (x[:, :3], y)]

    ended = PortedRun(backend.mlp, sequential, with_a_bad_batch, folder=tmp_path, num_epochs=1)
    with pytest.raises(Exception, match=r"(?i)shape|axis|incompatible"):
        ended.start()
    path, batches_done = ended.keeper.saved[-1]
    assert batches_done == 4  # the batch that failed had started
    resumed = PortedRun(backend.mlp, sequential, batches, num_epochs=1).start(path)
    whole = PortedRun(backend.mlp, sequential, batches, num_epochs=1).start()
    assert_goes_on_like(resumed, whole)


def test_it_is_refused_to_go_on_with_something_else(backend, tmp_path):
    whole = PortedRun(backend.mlp, unbuilt, arrays, folder=tmp_path, num_epochs=1, **OF_ARRAYS).start()
    path, _ = whole.keeper.saved[1]
    with pytest.raises(CheckpointMismatchError, match="other metrics"):
        PortedRun(
            backend.mlp, lambda: unbuilt(metrics=["accuracy", "sparse_top_k_categorical_accuracy"]), arrays, **OF_ARRAYS
        ).start(path)
    with pytest.raises(CheckpointMismatchError):
        PortedRun(backend.mlp, own_train_step, arrays, **OF_ARRAYS).start(path)
