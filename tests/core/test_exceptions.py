"""Exceptions reach the caller as they were raised, after every callback was told."""

import logging
import traceback

import numpy as np
import pytest

from mlpug.callbacks.callback import HOOKS
from mlpug.errors import TrainingModelError
from mlpug.testing import FakeNativeCallback

DATASET = [np.ones(1)] * 3
ERRORS = [ValueError("bad"), StopIteration("bad"), KeyError("bad"), SystemExit(3)]
DURING = HOOKS[:-1]  # all but on_training_ended


def raiser(error):
    """A function that raises this error, whatever it is called with."""

    def explode(*arguments, **named):
        raise error

    return explode


def raised_in(error):
    """The name of the function whose line raised the error."""
    return traceback.extract_tb(error.__traceback__)[-1].name


@pytest.fixture
def fails(make_manager, journal, make_journal):
    """Trains until it fails, and gives the error; checks that callbacks before and behind were told once, last."""

    def run(dataset, training_model, callbacks=()):
        behind = make_journal()
        manager = make_manager(dataset, [journal, *callbacks, behind], training_model=training_model, num_epochs=2)
        try:
            manager.start_training()
        except BaseException as error:  # noqa: BLE001 - it is what the test looks at
            for told in (journal, behind):
                assert told.hooks[-1] == "on_training_ended"
                assert len(told.outcomes) == 1
                assert (told.outcomes[0]["stopped_on_error"], told.outcomes[0]["stopped_early"]) == (True, False)
            return error
        return pytest.fail("training didn't fail")

    return run


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_in_the_model_arrives_as_it_was_raised(fails, returning, journal, error):
    caught = fails(DATASET, returning(raiser(error)))

    assert caught is error
    assert raised_in(caught) == "explode"
    assert journal.outcomes[0] == {
        "stopped_early": False,
        "stopped_on_error": True,
        "interrupted": False,
        "callback_calls_success": True,
    }


@pytest.mark.parametrize("num_batches", [None, 3])
def test_an_error_in_the_data_arrives_as_it_was_raised(make_manager, mean_model, journal, num_batches):
    error = OSError("disk")

    def explode():
        yield np.ones(1)
        raise error

    manager = make_manager(explode(), [journal], training_model=mean_model, num_batches_per_epoch=num_batches)
    with pytest.raises(OSError, match="disk") as caught:
        manager.start_training()

    assert caught.value is error
    assert raised_in(error) == "explode"
    assert journal.hooks == [
        "on_training_start",
        "on_epoch_start",
        "on_batch_training_start",
        "on_batch_training_completed",
        "on_training_ended",
    ]


@pytest.mark.parametrize("hook", DURING)
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_in_a_callback_arrives_as_it_was_raised(fails, mean_model, callback_with, journal, hook, error):
    caught = fails(DATASET, mean_model, [callback_with(**{hook: raiser(error)})])

    assert caught is error
    assert raised_in(caught) == "explode"
    assert journal.outcomes[0]["callback_calls_success"] is False


def test_an_error_in_a_native_callback_arrives_as_it_was_raised(fails, mean_model):
    error = ValueError("native")

    assert fails(DATASET, mean_model, [FakeNativeCallback(raiser(error))]) is error


def test_an_error_has_no_context_that_was_not_its_own(fails, returning):
    cause = RuntimeError("cause")
    error = ValueError("effect")
    error.__cause__ = cause
    caught = fails(DATASET, returning(raiser(error)))

    assert (caught.__cause__, caught.__context__) == (cause, None)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "The training model returned None. Return the loss"),
        (np.ones(3), r"must be a scalar, not an array of shape \(3,\). Return the loss"),
        ({"los": 1.0}, r"a dict without \"loss\": its keys are \['los'\]. Return the loss"),
    ],
)
def test_a_training_model_without_a_loss_is_an_error(fails, returning, returned, message):
    error = fails(DATASET, returning(lambda batch: returned))

    with pytest.raises(TrainingModelError, match=message):
        raise error


def test_an_error_says_where_training_was(fails, mean_model, callback_with, caplog):
    hooks = callback_with(on_batch_training_completed=lambda batch, logs: 1 / (1 - logs["current"]["batch_step"]))
    with caplog.at_level(logging.INFO, logger="mlpug"):
        assert isinstance(fails(DATASET, mean_model, [hooks]), ZeroDivisionError)

    assert [record.getMessage() for record in caplog.records] == [
        "Training stopped on an error in epoch 0, at batch 1."
    ]


def test_an_error_when_training_ends_arrives_after_everybody_was_told(train, callback_with, journal):
    error = ValueError("at the end")
    with pytest.raises(ValueError, match="at the end") as caught:
        train(DATASET, [callback_with(on_training_ended=raiser(error)), journal])

    assert caught.value is error
    assert raised_in(error) == "explode"
    assert len(journal.outcomes) == 1


def test_of_two_errors_when_training_ends_the_first_arrives_and_the_second_is_logged(train, callback_with, caplog):
    first, second = ValueError("first"), KeyError("second")
    with pytest.raises(ValueError, match="first"):
        train(DATASET, [callback_with(on_training_ended=raiser(error)) for error in (first, second)])

    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [second]


def test_the_second_error_is_logged_too_where_a_native_callback_stands_between_them(train, callback_with, caplog):
    first, second = ValueError("first"), KeyError("second")
    ours = [callback_with(on_training_ended=raiser(error)) for error in (first, second)]
    with pytest.raises(ValueError, match="first"):
        train(DATASET, [ours[0], FakeNativeCallback(str), ours[1]])

    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [second]


def test_an_error_when_training_ends_does_not_hide_the_one_that_ended_it_and_is_logged(
    make_manager, returning, callback_with, caplog
):
    first, second = ValueError("first"), KeyError("second")
    manager = make_manager(
        DATASET, [callback_with(on_training_ended=raiser(second))], training_model=returning(raiser(first))
    )
    with pytest.raises(ValueError, match="first") as caught:
        manager.start_training()

    assert caught.value is first
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [second]


@pytest.mark.parametrize("hook", DURING)
def test_errors_that_are_only_logged_do_not_end_training(train, callback_with, journal, caplog, hook):
    error = ValueError("only logged")
    train(DATASET, [callback_with(**{hook: raiser(error)}), journal], on_callback_error="log")
    times = {"on_rest": 5}.get(hook, 3 if "_batch_" in hook else 1)  # a rest after each batch, the epoch, and the last

    assert journal.hooks.count("on_batch_training_completed") == 3
    assert journal.outcomes == [
        {"stopped_early": False, "stopped_on_error": False, "interrupted": False, "callback_calls_success": False}
    ]
    logged = [record for record in caplog.records if record.exc_info]
    assert [record.exc_info[1] for record in logged] == [error] * times
    assert "raise error" in caplog.text
    assert f"but {times} callback calls failed" in caplog.records[-1].getMessage()


def test_an_error_at_the_end_that_is_only_logged_is_counted_and_said(train, callback_with, journal, caplog):
    error = ValueError("only logged")
    train(DATASET, [journal, callback_with(on_training_ended=raiser(error))], on_callback_error="log")

    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == [error]
    assert "but 1 callback calls failed" in caplog.records[-1].getMessage()


def test_callbacks_behind_one_that_failed_at_the_end_are_told_that_not_all_went_well(train, callback_with, journal):
    failing = callback_with(on_training_ended=raiser(ValueError("only logged")))
    train(DATASET, [failing, journal], on_callback_error="log")

    assert journal.outcomes[0]["callback_calls_success"] is False


def test_logging_errors_of_callbacks_does_not_keep_the_models_from_arriving(make_manager, returning, journal):
    error = ValueError("model")
    manager = make_manager(DATASET, [journal], training_model=returning(raiser(error)), on_callback_error="log")
    with pytest.raises(ValueError, match="model") as caught:
        manager.start_training()

    assert caught.value is error
    assert journal.outcomes[0]["callback_calls_success"] is True
