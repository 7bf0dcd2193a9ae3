"""Learning rates: set by hand, and moved by schedules, once for each batch that moved the weights."""

import math

import numpy as np
import pytest
from contract.backends.base import make_batches

from mlpug import checkpoints, scheduler_funcs
from mlpug.callbacks import Callback, LRSchedulerWrapper
from mlpug.errors import ConfigurationError
from mlpug.trainers import TrainingManager

SIZES, NUM_EPOCHS = (4, 4, 3), 3
NUM_STEPS = len(SIZES) * NUM_EPOCHS


def falling(step):
    return 0.5**step


class Rates(Callback):
    """The rate of each batch, as the logs have it, and the state of each rest."""

    def __init__(self, folder=None):
        self.rates, self.folder, self.saved = [], folder, []

    def on_batch_training_completed(self, batch, logs):
        self.rates.append(logs.at("training_params.batch.lr"))

    def on_rest(self, logs, is_last):
        if self.folder is not None:
            self.saved.append(self.folder / f"{len(self.saved)}.safetensors")
            checkpoints.save(self.saved[-1], self.manager.get_state())


class Run:
    """A fresh run with callbacks, and what it gave."""

    def __init__(self, backend, callbacks=(), folder=None, resume_from=None, batches=None, returns=None, **options):
        self.backend = type(backend)()
        self.trainer = self.backend.trainer(**options)
        self.own_rate = self.trainer.adapter.learning_rates()["optimizer"]
        self.seen = Rates(folder)
        self.trainer.set_training_model(self.backend.training_model(returns=returns))
        batches = make_batches(SIZES) if batches is None else batches
        self.manager = TrainingManager(self.trainer, batches, NUM_EPOCHS, [*callbacks, self.seen])
        with np.errstate(invalid="ignore"):
            self.manager.start_training(resume_from)

    @property
    def rate(self):
        return self.trainer.adapter.learning_rates()["optimizer"]


def assert_rates(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-6)  # which some backends hold in single precision


@pytest.mark.parametrize("schedule", [falling, scheduler_funcs.cosine_with_warmup(2, NUM_STEPS)])
def test_each_batch_has_the_rate_of_its_step(backend, schedule):
    run = Run(backend, [LRSchedulerWrapper(schedule)])

    assert_rates(run.seen.rates, [run.own_rate * schedule(step) for step in range(NUM_STEPS)])
    assert_rates(run.rate, run.own_rate * schedule(NUM_STEPS))


def test_the_weights_move_by_it(backend):
    still = Run(backend, [LRSchedulerWrapper(lambda step: 0.0)])
    plain, same = Run(backend), Run(backend, [LRSchedulerWrapper(lambda step: 1.0)])

    for name, weight in type(backend)().weights().items():
        np.testing.assert_array_equal(still.backend.weights()[name], weight)
        np.testing.assert_array_equal(same.backend.weights()[name], plain.backend.weights()[name])
        assert not np.array_equal(plain.backend.weights()[name], weight)


def test_each_epoch_has_the_rate_of_its_step(backend):
    run = Run(backend, [LRSchedulerWrapper(falling, batch_level=False)])

    assert_rates(run.seen.rates, [run.own_rate * falling(epoch) for epoch in range(NUM_EPOCHS) for _ in SIZES])


def test_a_batch_that_was_left_out_is_no_step(backend):
    batches = make_batches(SIZES)
    batches[1][1][0] = np.nan  # a label
    run = Run(backend, [LRSchedulerWrapper(falling)], batches=batches, on_non_finite="skip")

    steps = [0, 1, 1, 2, 3, 3, 4, 5, 5]
    assert_rates(run.seen.rates, [run.own_rate * falling(step) for step in steps])


@pytest.mark.parametrize("batch_level", [True, False])
def test_a_resumed_schedule_goes_on(backend, tmp_path, batch_level):
    def schedule():
        return [LRSchedulerWrapper(falling, batch_level=batch_level)]

    whole = Run(backend, schedule(), tmp_path)
    for path in whole.seen.saved:
        resumed = Run(backend, schedule(), resume_from=path)
        assert resumed.seen.rates == whole.seen.rates[NUM_STEPS - len(resumed.seen.rates) :]
        assert resumed.rate == whole.rate
        for name, weight in whole.backend.weights().items():
            np.testing.assert_array_equal(resumed.backend.weights()[name], weight)


def test_a_rate_that_is_set_by_hand_counts_from_the_next_step_on(backend, tmp_path):
    class Halve(Callback):
        def on_batch_training_start(self, batch, logs):
            if logs["current"]["global_iter"] == 4:
                self.manager.trainer.set_learning_rate(0.0)

    run = Run(backend, [Halve()])

    assert_rates(run.seen.rates, [run.own_rate] * 4 + [0.0] * 5)
    run.trainer.set_learning_rate_for("optimizer", 0.25)
    assert run.rate == 0.25


@pytest.mark.parametrize("rate", [-0.1, math.nan, math.inf, "0.1", None, True])
def test_what_is_no_rate_is_refused(backend, rate):
    trainer = backend.trainer()
    with pytest.raises(ConfigurationError, match="must be a finite number of at least 0"):
        trainer.set_learning_rate(rate)
    with pytest.raises(ConfigurationError, match="no optimizer 'another'; the optimizers are optimizer"):
        trainer.set_learning_rate_for("another", 0.1)


@pytest.mark.parametrize("bad", [None, 0.5, "cosine", object()])
def test_what_is_no_scheduler_is_refused(backend, bad):
    with pytest.raises(ConfigurationError, match="is no scheduler"):
        LRSchedulerWrapper(bad)
    with pytest.raises(ConfigurationError, match="is no scheduler"):
        LRSchedulerWrapper({"optimizer": bad})


def test_combinations_that_cant_work_are_refused(backend):
    with pytest.raises(ConfigurationError, match="none of the schedulers goes by a metric"):
        LRSchedulerWrapper(falling, metric_to_monitor="training.batch.loss")
    with pytest.raises(ConfigurationError, match=r"by the names of optimizers, not \{\}"):
        LRSchedulerWrapper({})
    with pytest.raises(ConfigurationError, match="for 'another', and the optimizers are optimizer"):
        TrainingManager(backend.trainer(), make_batches(SIZES), callbacks=[LRSchedulerWrapper({"another": falling})])
