"""Ending training early, from each hook."""

import logging

import numpy as np
import pytest

DATASET = [np.ones(1)] * 3
BATCH = ["on_batch_training_start", "on_batch_training_completed"]
EPOCH = ["on_epoch_start", *BATCH * 3, "on_epoch_completed"]
START, END = ["on_training_start"], ["on_training_ended"]


@pytest.fixture
def train_and_stop(train, callback_with, journal):
    """Trains three epochs, stops in a hook at a batch of an epoch, and gives the journal of a callback behind."""

    def run(hook, epoch=0, batch_step=0, num_epochs=3, dataset=DATASET):
        def stop(*arguments):
            current = arguments[-1]["current"]
            if (current["epoch"], current["batch_step"]) == (epoch, batch_step):
                stopper.manager.stop_training()

        stopper = callback_with(**{hook: stop})
        train(dataset, [stopper, journal], num_epochs=num_epochs)
        return journal

    return run


@pytest.mark.parametrize(
    ("hook", "epoch", "batch_step", "hooks"),
    [
        ("on_training_start", 0, 0, [*START, *END]),
        ("on_epoch_start", 0, 0, [*START, "on_epoch_start", *END]),
        ("on_epoch_start", 1, 0, [*START, *EPOCH, "on_epoch_start", *END]),
        ("on_batch_training_start", 0, 1, [*START, "on_epoch_start", *BATCH * 2, *END]),
        ("on_batch_training_completed", 0, 0, [*START, "on_epoch_start", *BATCH, *END]),
        ("on_batch_training_completed", 1, 1, [*START, *EPOCH, "on_epoch_start", *BATCH * 2, *END]),
        ("on_batch_training_start", 0, 2, [*START, *EPOCH, *END]),
        ("on_batch_training_completed", 0, 2, [*START, *EPOCH, *END]),
        ("on_epoch_completed", 0, 2, [*START, *EPOCH, *END]),
        ("on_epoch_completed", 1, 2, [*START, *EPOCH, *EPOCH, *END]),
    ],
)
def test_what_is_under_way_is_finished_and_nothing_else_starts(train_and_stop, hook, epoch, batch_step, hooks):
    journal = train_and_stop(hook, epoch, batch_step)

    assert journal.hooks == hooks
    assert journal.outcomes == [
        {"stopped_early": True, "stopped_on_error": False, "interrupted": False, "callback_calls_success": True}
    ]


@pytest.mark.parametrize("hook", ["on_batch_training_start", "on_batch_training_completed", "on_epoch_completed"])
def test_stopping_at_the_very_end_is_not_early(train_and_stop, hook):
    journal = train_and_stop(hook, epoch=1, batch_step=2, num_epochs=2)

    assert journal.hooks == [*START, *EPOCH, *EPOCH, *END]
    assert journal.outcomes[0]["stopped_early"] is False


def test_stopping_when_training_ends_changes_nothing(train, callback_with, journal):
    stopper = callback_with(on_training_ended=lambda logs, **outcome: stopper.manager.stop_training())
    train(DATASET, [stopper, journal])

    assert journal.outcomes[0]["stopped_early"] is False


def test_callbacks_further_down_the_list_still_hear_of_the_batch(train, callback_with):
    heard = []

    def stop(batch, logs):
        stopper.manager.stop_training()

    stopper = callback_with(on_batch_training_completed=stop)
    behind = callback_with(on_batch_training_completed=lambda batch, logs: heard.append(logs.at("batch_step")))
    train(DATASET, [stopper, behind])

    assert heard == [0]


def test_an_early_stop_is_said(train_and_stop, caplog):
    with caplog.at_level(logging.INFO, logger="mlpug"):
        train_and_stop("on_batch_training_completed", 1, 1)

    assert [record.getMessage() for record in caplog.records] == [
        "Training was stopped early, in epoch 1, at batch 1. All good! ❤️"
    ]


def test_completed_training_is_said(train, caplog):
    with caplog.at_level(logging.INFO, logger="mlpug"):
        train(DATASET)

    assert [(record.levelname, record.name, record.getMessage()) for record in caplog.records] == [
        ("INFO", "mlpug.TrainingManager::start_training", "Training completed. All good! ❤️")
    ]


def test_a_stop_leaves_the_rest_of_a_stream_unread(train, callback_with):
    stream = iter([np.full(1, float(number)) for number in range(10)])
    stopper = callback_with(
        on_batch_training_completed=lambda batch, logs: batch[0] == 4.0 and stopper.manager.stop_training()
    )
    train(stream, [stopper], num_batches_per_epoch=4, num_epochs=2)

    assert [int(batch[0]) for batch in stream] == [5, 6, 7, 8, 9]
