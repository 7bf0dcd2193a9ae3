"""Exceptions reach the caller as they were raised, after every callback was told."""

import traceback

import pytest
from contract.backends.base import assert_same_weights, make_batches

from mlpug.callbacks import Callback
from mlpug.errors import ConfigurationError, TrainingModelError
from mlpug.trainers import TrainingManager


class Told(Callback):
    def __init__(self):
        self.outcomes = []

    def on_training_ended(self, logs, **outcome):
        self.outcomes.append({name for name, value in outcome.items() if value})


class OurError(Exception):
    pass


def fail_with(error):
    raise error


class Failing(Callback):
    def __init__(self, error):
        self.error, self.calls = error, 0

    def on_batch_training_completed(self, batch, logs):
        self.calls += 1
        fail_with(self.error)


def failing_batches(error):
    yield from make_batches((4, 4))
    fail_with(error)


def start(backend, callbacks, dataset=None, spy=None, returns=None, **arguments):
    trainer = backend.trainer()
    manager = TrainingManager(trainer, dataset or make_batches((4, 4)), callbacks=callbacks, **arguments)
    trainer.set_training_model(backend.training_model(spy=spy, returns=returns))
    manager.start_training()


@pytest.mark.parametrize("kind", [OurError, StopIteration, SystemExit])
@pytest.mark.parametrize("where", ["model", "callback"])
def test_an_exception_reaches_the_caller_after_everyone_was_told(backend, where, kind):
    error, told = kind("on purpose"), [Told(), Told()]
    callbacks = [told[0], *([Failing(error)] if where == "callback" else []), told[1]]
    spy = (lambda *_: fail_with(error)) if where == "model" else None
    with pytest.raises(kind) as caught:
        start(backend, callbacks, spy=spy, num_epochs=3)
    assert caught.value is error
    assert "raise error" in "".join(traceback.format_exception(caught.value))
    success = {"callback_calls_success"} if where == "model" else set()
    assert [callback.outcomes for callback in told] == [[{"stopped_on_error"} | success]] * 2


def test_an_exception_in_the_data_reaches_the_caller_after_everyone_was_told(backend):
    error, told = OurError("on purpose"), Told()
    with pytest.raises(OurError) as caught:
        start(backend, [told], dataset=failing_batches(error))
    assert caught.value is error
    assert told.outcomes == [{"stopped_on_error", "callback_calls_success"}]


def test_logged_callback_errors_let_training_go_on(backend, caplog):
    failing, told = Failing(OurError("on purpose")), Told()
    start(backend, [failing, told], on_callback_error="log")
    assert failing.calls == 2
    assert told.outcomes == [set()]
    assert "Failing.on_batch_training_completed failed" in caplog.text
    assert "OurError: on purpose" in caplog.text
    assert "2 callback calls failed" in caplog.messages[-1]


def test_keyboard_interrupt_in_the_model_is_raised_after_everyone_was_told(backend):
    told = Told()
    with pytest.raises(KeyboardInterrupt):
        start(backend, [told], spy=lambda *_: fail_with(KeyboardInterrupt()))
    assert told.outcomes == [{"interrupted", "callback_calls_success"}]


@pytest.mark.parametrize(
    ("returns", "message"),
    [
        (lambda *_: None, "returned None"),
        (lambda loss, n, predictions: predictions, r"must be a scalar, not an array of shape \(4,\)"),
        (lambda loss, n, predictions: {"los": loss}, 'without "loss"'),
        (lambda loss, n, predictions: "loss", "is a str, not a scalar"),
    ],
    ids=["nothing", "an array", "no loss", "a string"],
)
def test_what_isnt_a_loss_is_refused(backend, returns, message):
    with pytest.raises(TrainingModelError, match=message) as caught:
        start(backend, [], returns=returns)
    assert "Return the loss of the batch, or" in str(caught.value)


@pytest.mark.parametrize(
    "returns",
    [
        lambda loss, n, predictions: loss,
        lambda loss, n, predictions: (loss, n),
        lambda loss, n, predictions: (loss, n, predictions, predictions),
        lambda loss, n, predictions: {"loss": loss, "num_samples": n, "auxiliary_results": predictions},
    ],
    ids=["loss", "tuple of two", "tuple of four", "dict"],
)
def test_every_form_of_result_trains(backend, returns):
    expected_weights, _ = backend.train_by_hand(make_batches((4, 4)), num_epochs=1)
    start(backend, [], returns=returns)
    assert_same_weights(backend, expected_weights)


def test_training_and_evaluating_need_a_training_model(backend):
    trainer = backend.trainer()
    manager = TrainingManager(trainer, make_batches())
    with pytest.raises(ConfigurationError, match=r"call trainer\.set_training_model\(train_model\) before"):
        manager.start_training()


def test_a_training_model_of_another_kind_is_refused(backend):
    with pytest.raises(ConfigurationError, match="training model must be"):
        backend.trainer().set_training_model("a string")
