"""Ctrl-C: once lets the batch finish, twice stops at once."""

import logging
import os
import signal
import threading
import time

import numpy as np
import pytest

DATASET = [np.ones(1)] * 4
INTERRUPTED = {
    "stopped_early": False,
    "stopped_on_error": False,
    "interrupted": True,
    "callback_calls_success": True,
}


def press_ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def handler():
    """A handler for Ctrl-C that somebody else had installed; it has to be there again after training."""

    def theirs(number, frame):
        raise AssertionError("the handler of somebody else was called while training")

    before = signal.signal(signal.SIGINT, theirs)
    yield theirs
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("hook", ["on_batch_training_start", "on_batch_training_completed"])
def test_once_lets_the_batch_finish_tells_everybody_and_returns(train, callback_with, journal, handler, hook):
    def press(batch, logs):
        if logs["current"]["batch_step"] == 1:
            press_ctrl_c()

    train(DATASET, [callback_with(**{hook: press}), journal], num_epochs=2)

    assert journal.places[-2:] == [("on_batch_training_completed", 0, 1, 1), ("on_training_ended", 0, 1, 1)]
    assert journal.outcomes == [INTERRUPTED]
    assert signal.getsignal(signal.SIGINT) is handler


def test_once_between_epochs_starts_no_other_epoch(train, callback_with, journal, handler):
    train(DATASET, [callback_with(on_epoch_completed=lambda logs: press_ctrl_c()), journal], num_epochs=2)

    assert journal.hooks.count("on_epoch_start") == 1
    assert journal.outcomes == [INTERRUPTED]


def test_once_inside_the_model_lets_it_finish(train, returning, journal, handler):
    def step(batch):
        press_ctrl_c()
        return 0.5, 1

    manager = train(DATASET, [journal], training_model=returning(step))

    assert journal.outcomes == [INTERRUPTED]
    assert manager.step_output.loss == 0.5


def test_it_is_said_what_happens_and_how_to_stop_at_once(train, callback_with, handler, caplog):
    with caplog.at_level(logging.INFO, logger="mlpug"):
        train(DATASET, [callback_with(on_batch_training_completed=lambda batch, logs: press_ctrl_c())])
        give_up_at = time.monotonic() + 10
        while len(caplog.records) < 2 and time.monotonic() < give_up_at:
            time.sleep(0.001)  # the first is said from another thread, so that it can't disturb what is being printed

    assert {record.getMessage() for record in caplog.records} == {
        "Interrupted: training stops after this batch. Press Ctrl-C again to stop at once.",
        "Training was interrupted in epoch 0, at batch 0.",
    }


@pytest.mark.parametrize("on_callback_error", ["raise", "log"])
def test_twice_raises_at_once(make_manager, mean_model, callback_with, journal, handler, on_callback_error):
    after = []

    def press_twice(batch, logs):
        press_ctrl_c()
        press_ctrl_c()
        after.append("not reached")

    manager = make_manager(
        DATASET,
        [callback_with(on_batch_training_completed=press_twice), journal],
        training_model=mean_model,
        on_callback_error=on_callback_error,
    )
    with pytest.raises(KeyboardInterrupt):
        manager.start_training()

    assert after == []
    assert journal.hooks[-2:] == ["on_batch_training_start", "on_training_ended"]
    assert (journal.outcomes[0]["interrupted"], journal.outcomes[0]["stopped_on_error"]) == (True, False)
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_keyboard_interrupt_that_is_raised_inside_is_an_interrupt_and_arrives(make_manager, returning, journal):
    error = KeyboardInterrupt()

    def step(batch):
        raise error

    manager = make_manager(DATASET, [journal], training_model=returning(step))
    with pytest.raises(KeyboardInterrupt) as caught:
        manager.start_training()

    assert caught.value is error
    assert journal.outcomes == [INTERRUPTED]


@pytest.mark.parametrize("fails", [False, True])
def test_the_handler_from_before_is_back_however_training_ends(make_manager, returning, handler, fails):
    manager = make_manager(DATASET, training_model=returning(lambda batch: (None if fails else 0.5, 1)))
    if fails:
        with pytest.raises(TypeError, match="returned a tuple whose loss is None"):
            manager.start_training()
    else:
        manager.start_training()

    assert signal.getsignal(signal.SIGINT) is handler


def test_training_works_on_another_thread_and_leaves_ctrl_c_as_it_is(
    make_manager, mean_model, callback_with, journal, handler
):
    seen = []
    hooks = callback_with(on_training_start=lambda logs: seen.append(signal.getsignal(signal.SIGINT)))
    manager = make_manager(DATASET, [hooks, journal], training_model=mean_model)
    thread = threading.Thread(target=manager.start_training)
    thread.start()
    thread.join()

    assert seen == [handler]
    assert journal.hooks.count("on_batch_training_completed") == 4
    assert journal.outcomes[0]["interrupted"] is False


def test_ctrl_c_in_a_forked_process_does_not_end_its_work(run_python):
    finished = run_python(
        """
import os, signal
import numpy as np
from mlpug.callbacks import Callback
from mlpug.testing import GradientDescent, LinearRegression, fake_trainer
from mlpug.trainers import TrainingManager

class Forks(Callback):
    def on_batch_training_start(self, batch, logs):
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            os._exit(7)
        self.status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

model = LinearRegression(1)
trainer = fake_trainer(GradientDescent(model.parameters), model)
trainer.set_training_model(model)
forks = Forks()
TrainingManager(trainer, [(np.ones((1, 1)), np.ones(1))], callbacks=[forks]).start_training()
print("child", forks.status)
"""
    )

    assert finished.stdout.decode().endswith("child 7\n")
    assert finished.returncode == 0
