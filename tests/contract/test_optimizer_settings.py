"""Another learning rate in the script of a resumed run: one warning, and the rates of the one that was asked for."""

import warnings

import numpy as np
import pytest
from contract.backends.base import make_batches
from contract.keeper import Keeper

from mlpug import checkpoints
from mlpug.callbacks import Callback, LRSchedulerWrapper
from mlpug.errors import ConfigurationError, MlpugWarning
from mlpug.trainers import TrainingManager

OLD, NEW = 0.25, 0.0625  # exact in float32
STOPPED = 3  # the state of this many batches is resumed
SIZES = (4, 4, 4, 4)


class Rates(Callback):
    """The rate of each batch; and what a run that never stopped is told to do in the middle."""

    def __init__(self, after=None):
        self.rates, self.after = [], after

    def on_batch_training_start(self, batch, logs):
        if self.after is not None and self.manager.global_iter == STOPPED:
            self.manager.trainer.set_learning_rate_for("optimizer", self.after)

    def on_batch_training_completed(self, batch, logs):
        self.rates.append(logs.at("training_params.batch.lr"))


def factor(step):
    return 0.5**step


def train(backend, rate, folder=None, after=None, schedule=None, num_epochs=1, **resuming):
    backend = type(backend)()
    trainer = backend.trainer()
    trainer.set_learning_rate_for("optimizer", rate)  # as if it was made so
    rates = Rates(after)
    callbacks = [rates] if schedule is None else [LRSchedulerWrapper(schedule), rates]
    keeper = [] if folder is None else [Keeper(folder)]
    manager = TrainingManager(trainer, make_batches(SIZES), num_epochs, callbacks=[*callbacks, *keeper])
    trainer.set_training_model(backend.training_model())
    manager.start_training(**resuming)
    return backend.weights(), rates.rates, saved_at(keeper)


def saved_at(keepers):
    """The state of STOPPED batches, or of the end of a run that began there."""
    by_number = {number: path for keeper in keepers for path, number in reversed(keeper.saved)}
    return by_number.get(STOPPED, by_number.get(len(SIZES)))


def told(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call()
    return [str(each.message) for each in caught if issubclass(each.category, MlpugWarning)], result


def assert_same(weights, expected):
    for name, weight in expected.items():
        np.testing.assert_array_equal(weights[name], weight)


def test_the_rate_is_the_checkpoints_or_the_scripts(backend, tmp_path):
    whole, _, path = train(backend, OLD, tmp_path)
    changed, _, _ = train(backend, OLD, after=NEW)
    messages, (weights, rates, _) = told(lambda: train(backend, NEW, resume_from=path))
    assert rates == [OLD]
    assert_same(weights, whole)
    (message,) = messages
    assert "was 0.25, is 0.0625 in this script, and training goes on with 0.25" in message
    messages, (weights, rates, _) = told(
        lambda: train(backend, NEW, resume_from=path, resume_optimizer_settings="script")
    )
    assert rates == [NEW]
    assert_same(weights, changed)
    (message,) = messages
    assert "was 0.25, is 0.0625 in this script, and training goes on with 0.0625" in message


def test_what_is_compared_are_scripts_and_not_what_schedules_made_of_them(backend, tmp_path):
    _, expected, path = train(backend, OLD, tmp_path, schedule=factor)
    assert expected == [OLD * factor(step) for step in range(4)]
    for source in ("checkpoint", "script"):
        messages, (_, rates, _) = told(
            lambda source=source: train(
                backend, OLD, schedule=factor, resume_from=path, resume_optimizer_settings=source
            )
        )
        assert messages == []
        assert rates == expected[STOPPED:]


def test_a_schedule_goes_on_at_its_step_with_the_rate_that_was_asked_for(backend, tmp_path):
    *_, path = train(backend, OLD, tmp_path, schedule=factor)
    for source, rate in (("checkpoint", OLD), ("script", NEW)):
        messages, (_, rates, _) = told(
            lambda source=source: train(
                backend, NEW, schedule=factor, resume_from=path, resume_optimizer_settings=source
            )
        )
        assert rates == [rate * factor(STOPPED)]
        (message,) = messages
        assert "was 0.25, is 0.0625 in this script" in message


@pytest.mark.parametrize(("source", "goes_on_with"), [("checkpoint", OLD), ("script", NEW)])
def test_each_resume_is_compared_with_the_script_that_wrote_its_file(backend, tmp_path, source, goes_on_with):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    _, _, path = train(backend, OLD, tmp_path / "first")
    resuming = {"resume_from": path, "resume_optimizer_settings": source}
    messages, (*_, second) = told(lambda: train(backend, NEW, tmp_path / "second", **resuming))
    assert len(messages) == 1
    for rate, number_of_warnings in ((NEW, 0), (OLD, 1)):
        messages, (_, rates, _) = told(lambda rate=rate: train(backend, rate, num_epochs=2, resume_from=second))
        assert len(messages) == number_of_warnings
        assert rates == [goes_on_with] * len(SIZES)


def test_a_checkpoint_of_an_earlier_version_says_nothing_of_settings(backend, tmp_path):
    whole, _, path = train(backend, OLD, tmp_path)
    state = checkpoints.load(path)
    for of_optimizer in state["optimizers"].values():
        for key in ("configured", "settings"):
            of_optimizer.pop(key, None)
    checkpoints.save(path, state)
    messages, (weights, rates, _) = told(lambda: train(backend, NEW, resume_from=path))
    assert messages == []
    assert rates == [OLD]
    assert_same(weights, whole)


def test_there_are_two_sources_of_settings(backend):
    with pytest.raises(ConfigurationError, match=r'must be "checkpoint" or "script".*not \'mine\''):
        train(backend, OLD, resume_optimizer_settings="mine")
