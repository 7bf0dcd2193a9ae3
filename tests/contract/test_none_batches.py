"""A batch that is None is left out with one warning: callbacks don't hear of it, and it keeps its place in the data."""

import warnings

import numpy as np
import pytest
from contract.backends.base import assert_same_weights, make_batches
from contract.keeper import Keeper

from mlpug.callbacks import Callback
from mlpug.errors import MlpugWarning
from mlpug.trainers import TrainingManager

FIRST, SECOND, THIRD = make_batches((4, 4, 4))
WITH_NONE = [None, FIRST, None, None, SECOND, THIRD, None]
NUM_EPOCHS = 2


class Told(Callback):
    def __init__(self):
        self.told = []

    def on_batch_training_start(self, batch, logs):
        self.told.append(("start", logs["current"]["batch_step"], logs["current"]["global_iter"]))

    def on_batch_training_completed(self, batch, logs):
        current = logs["current"]
        self.told.append((len(batch[0]), current["batch_step"], current["global_iter"]))

    def on_epoch_completed(self, logs):
        self.told.append(("epoch", self.manager.global_iter))


class WithoutLength:
    def __iter__(self):
        return iter(WITH_NONE)


def train(backend, data, folder=None, resume_from=None, **options):
    backend = type(backend)()
    trainer, told = backend.trainer(**options), Told()
    keeper = [] if folder is None else [Keeper(folder)]
    manager = TrainingManager(trainer, data, num_epochs=NUM_EPOCHS, callbacks=[told, *keeper])
    trainer.set_training_model(backend.training_model())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        manager.start_training(resume_from=resume_from)
    about_none = [each for each in caught if "None" in str(each.message)]
    assert all(issubclass(each.category, MlpugWarning) for each in about_none)
    return backend, told.told, len(about_none), keeper and keeper[0].saved


def joined(*batches):
    return tuple(np.concatenate(parts) for parts in zip(*batches, strict=True))


def heard_of(places, num_batches=7, size=4):
    """What callbacks hear of batches at these places in each epoch."""
    events = []
    for before in range(0, NUM_EPOCHS * num_batches, num_batches):
        for place in places:
            events += [("start", place, before + place), (size, place, before + place)]
        events.append(("epoch", before + num_batches))
    return events


@pytest.mark.parametrize(
    ("data", "options"),
    [(WITH_NONE, {}), (WITH_NONE, {"batch_chunk_size": 3}), (WithoutLength(), {})],
    ids=["list", "chunks", "without length"],
)
def test_it_is_left_out(backend, data, options):
    trained, told, num_warnings, _ = train(backend, data, **options)
    expected, _, no_warning, _ = train(backend, [FIRST, SECOND, THIRD], **options)
    for name, weight in expected.weights().items():
        np.testing.assert_array_equal(trained.weights()[name], weight)
    assert (num_warnings, no_warning) == (1, 0)
    assert told == heard_of([1, 4, 5])


def test_groups_are_made_of_the_others(backend):
    options = {"gradient_accumulation_steps": 2}
    trained, told, num_warnings, _ = train(backend, WITH_NONE, **options)
    # [None, FIRST], [None, None], [SECOND, THIRD], [None]
    expected, _, _, _ = train(backend, [FIRST, joined(SECOND, THIRD)], batch_chunk_size=4)
    for name, weight in expected.weights().items():
        np.testing.assert_array_equal(trained.weights()[name], weight)
    assert num_warnings == 1
    sizes = [event for event in told if event[0] not in ("start", "epoch")]
    assert sizes == [(4, 0, 0), (8, 2, 2), (4, 0, 4 + 0), (8, 2, 4 + 2)]


def test_a_run_goes_on_at_its_place(backend, tmp_path):
    whole, told, _, saved = train(backend, WITH_NONE, tmp_path)
    assert len(saved) == NUM_EPOCHS * (3 + 1) + 1
    for path, _ in saved[:-1]:
        resumed, rest, _, _ = train(backend, WITH_NONE, resume_from=path)
        for name, weight in whole.weights().items():
            np.testing.assert_array_equal(resumed.weights()[name], weight)
        assert rest == told[len(told) - len(rest) :]


def test_the_weights_are_those_of_a_loop_without_it(backend):
    trained, _, _, _ = train(backend, WITH_NONE)
    expected, _ = type(backend)().train_by_hand([FIRST, SECOND, THIRD], NUM_EPOCHS)
    assert_same_weights(trained, expected)
