"""Every kind of dataset, cut into epochs."""

import time
from itertools import count, pairwise

import numpy as np
import pytest

from mlpug.errors import ConfigurationError, DatasetError, MlpugWarning


class Stream:
    """Gives a fresh iterator of so many batches each time, and doesn't know its length."""

    def __init__(self, num_batches):
        self.num_batches = num_batches
        self.started = 0

    def __iter__(self):
        self.started += 1
        return (np.full(1, float(number)) for number in range(self.num_batches))


@pytest.fixture
def trained_on(train, callback_with):
    """Trains, and gives the numbers of the batches of each epoch."""

    def run(dataset, **options):
        epochs = []
        hooks = callback_with(
            on_epoch_start=lambda logs: epochs.append([]),
            on_batch_training_completed=lambda batch, logs: epochs[-1].append(int(batch[0])),
        )
        train(dataset, [hooks], **options)
        return epochs

    return run


def numbered(how_many):
    return [np.full(1, float(number)) for number in range(how_many)]


def test_an_epoch_is_the_whole_dataset(trained_on):
    assert trained_on(numbered(3), num_epochs=2) == [[0, 1, 2], [0, 1, 2]]


def test_a_dataset_without_a_length_is_iterated_anew_each_epoch(trained_on):
    assert trained_on(Stream(3), num_epochs=2) == [[0, 1, 2], [0, 1, 2]]


def test_a_shorter_epoch_starts_a_sized_dataset_again_each_time(trained_on):
    assert trained_on(numbered(5), num_batches_per_epoch=2, num_epochs=3) == [[0, 1], [0, 1], [0, 1]]


def test_an_endless_generator_goes_on_in_the_next_epoch_without_losing_or_repeating_a_batch(trained_on):
    drawn = []

    def endless():
        for number in count():
            drawn.append(number)
            yield np.full(1, float(number))

    epochs = trained_on(endless(), num_batches_per_epoch=3, num_epochs=4)

    assert epochs == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert drawn == list(range(12))  # nothing is drawn ahead


def test_a_dataset_without_a_length_starts_again_only_after_all_of_it(trained_on):
    stream = Stream(5)
    with pytest.warns(MlpugWarning, match="ended after 1 batches in epoch 2"):
        epochs = trained_on(stream, num_batches_per_epoch=2, num_epochs=5)

    assert epochs == [[0, 1], [2, 3], [4], [0, 1], [2, 3]]
    assert stream.started == 2


def test_a_dataset_without_a_length_that_ends_with_an_epoch_starts_again_in_the_next(trained_on):
    assert trained_on(Stream(4), num_batches_per_epoch=2, num_epochs=4) == [[0, 1], [2, 3], [0, 1], [2, 3]]


def test_a_dataset_without_a_length_may_be_one_epoch_long(trained_on):
    assert trained_on(Stream(3), num_batches_per_epoch=3, num_epochs=3) == [[0, 1, 2]] * 3


def test_a_dataset_that_ends_early_ends_the_epoch_there_and_warns_once(trained_on):
    with pytest.warns(MlpugWarning) as warned:
        epochs = trained_on(Stream(3), num_batches_per_epoch=5, num_epochs=3)

    assert epochs == [[0, 1, 2]] * 3
    assert len(warned) == 1
    assert "ended after 3 batches in epoch 0, before num_batches_per_epoch=5" in str(warned[0].message)


def test_an_epoch_that_the_dataset_ended_early_is_completed(train, journal):
    with pytest.warns(MlpugWarning, match="ended after 2 batches"):
        train(iter(numbered(2)), [journal], num_batches_per_epoch=5)

    assert journal.hooks[-2:] == ["on_epoch_completed", "on_training_ended"]
    assert journal.outcomes[0]["stopped_early"] is False


def test_a_sized_dataset_that_is_too_short_warns_once_when_the_manager_is_made(make_manager, mean_model):
    with pytest.warns(MlpugWarning, match="has 3 batches, fewer than num_batches_per_epoch=5") as warned:
        manager = make_manager(numbered(3), training_model=mean_model, num_batches_per_epoch=5, num_epochs=2)
    manager.start_training()  # a warning here would be an error

    assert len(warned) == 1
    assert manager.logs["final_batch_step"] == 2


def test_epochs_of_the_datasets_own_length_warn_of_nothing(trained_on):
    assert trained_on(numbered(2), num_batches_per_epoch=2, num_epochs=2) == [[0, 1], [0, 1]]


def test_an_empty_list_is_refused_when_the_manager_is_made(make_manager):
    with pytest.raises(DatasetError, match="The training dataset is empty: it has no batches"):
        make_manager([])


@pytest.mark.parametrize("num_batches", [None, 3])
def test_a_dataset_that_turns_out_to_be_empty_is_an_error(train, journal, num_batches):
    with pytest.raises(DatasetError, match=r"gave no batches in epoch 0.*read only once: pass a data loader"):
        train(iter([]), [journal], num_batches_per_epoch=num_batches)

    assert journal.hooks == ["on_training_start", "on_epoch_start", "on_training_ended"]
    assert journal.outcomes[0]["stopped_on_error"] is True


@pytest.mark.parametrize("num_batches", [None, 2])
def test_a_generator_that_is_used_up_is_an_error_in_the_epoch_that_finds_it_empty(train, journal, num_batches):
    with pytest.raises(DatasetError, match="gave no batches in epoch 1"):
        train(iter(numbered(2)), [journal], num_epochs=2, num_batches_per_epoch=num_batches)

    assert journal.hooks.count("on_epoch_completed") == 1


@pytest.mark.parametrize("dataset", [None, 3, object()])
def test_a_dataset_must_be_iterable(make_manager, dataset):
    with pytest.raises(ConfigurationError, match=r"an iterable of batches, not a .*Pass a data loader, a list"):
        make_manager(dataset)


@pytest.mark.parametrize("option", ["num_epochs", "num_batches_per_epoch"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_counts_must_be_counts(make_manager, option, value):
    with pytest.raises(ConfigurationError, match=f"{option} must be a whole number of at least 1, not {value!r}"):
        make_manager(numbered(3), **{option: value})


def test_a_batch_that_starts_after_a_pause_of_the_data_is_timed_without_it(train, callback_with, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    durations = []

    def slow_data():
        for batch in numbered(3):
            clock[0] += 100.0
            yield batch

    def another_second(batch, logs):
        clock[0] += 1.0

    hooks = callback_with(
        on_batch_training_start=another_second,
        on_batch_training_completed=lambda batch, logs: durations.append(logs.at("training_params.batch.duration")),
    )
    manager = train(slow_data(), [hooks])

    assert durations == [1.0] * 3
    assert manager.logs.at("training_params.sliding_window.duration") == 1.0
    assert manager.logs.at("training_params.epoch.duration") == 303.0


def test_iterations_are_counted_over_epochs_of_uneven_length(train, journal):
    with pytest.warns(MlpugWarning, match="ended after 1 batches"):
        train(Stream(3), [journal], num_batches_per_epoch=2, num_epochs=4)
    iterations = [place[3] for place in journal.places if place[0] == "on_batch_training_start"]

    assert all(later == earlier + 1 for earlier, later in pairwise(iterations))
    assert len(iterations) == 2 + 1 + 2 + 1
