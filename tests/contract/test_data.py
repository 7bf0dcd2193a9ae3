"""Batches of any nesting, datasets of any kind, epochs of any length."""

import dataclasses
import itertools
from typing import Any

import pytest
from contract.backends.base import assert_same_losses, assert_same_weights, make_batches

from mlpug.callbacks import BatchSizeLogger, Callback, TestMetricsLogger, TrainingMetricsLogger
from mlpug.errors import DatasetError, MlpugWarning
from mlpug.evaluation import MetricEvaluator
from mlpug.trainers import TrainingManager


class Follow(Callback):
    """Keeps which batches were trained on, by their first target, epoch by epoch."""

    def __init__(self):
        self.epochs = []

    def on_epoch_start(self, logs):
        self.epochs.append([])

    def on_batch_training_completed(self, batch, logs):
        self.epochs[-1].append(float(batch[1][0]))


def firsts(batches):
    return [float(y[0]) for _, y in batches]


def train(backend, dataset, callbacks=(), **arguments):
    trainer = backend.trainer()
    manager = TrainingManager(trainer, dataset, callbacks=callbacks, **arguments)
    trainer.set_training_model(backend.training_model())
    manager.start_training()
    return manager


@dataclasses.dataclass(frozen=True)
class Sample:
    x: Any
    y: Any
    note: str = "not an array"


class Iterable:
    """Iterates afresh each time, and doesn't know its length."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


@pytest.mark.parametrize(
    "nest",
    [lambda x, y: (x, y), lambda x, y: [x, y], lambda x, y: {"x": x, "nested": {"y": y, "n": 3}}, Sample],
    ids=["tuple", "list", "dict", "dataclass"],
)
def test_batches_of_any_nesting_train_the_same(backend, nest):
    batches = make_batches()
    expected_weights, expected_losses = backend.train_by_hand(batches, num_epochs=1)
    sizes, losses = [], []

    class Read(Callback):
        def on_batch_training_completed(self, batch, logs):
            losses.append(logs.at("training.batch.loss"))
            sizes.append(logs.at("training_params.batch.size"))

    trainer = backend.trainer()
    evaluator = MetricEvaluator(trainer=trainer)
    callbacks = [BatchSizeLogger(), TrainingMetricsLogger(evaluator), Read()]
    manager = TrainingManager(trainer, [nest(x, y) for x, y in batches], callbacks=callbacks)
    trainer.set_training_model(backend.training_model())
    manager.start_training()
    assert_same_weights(backend, expected_weights)
    assert_same_losses(backend, losses, expected_losses)
    assert sizes == [8, 8, 8, 5]
    assert evaluator.evaluate_dataset([nest(x, y) for x, y in batches]) == evaluator.evaluate_dataset(batches)


@pytest.mark.parametrize("kind", [list, tuple, Iterable], ids=["list", "tuple", "iterable"])
def test_every_epoch_gets_all_batches(backend, kind):
    batches, follow = make_batches(), Follow()
    train(backend, kind(batches), [follow], num_epochs=2)
    assert follow.epochs == [firsts(batches)] * 2


def test_fewer_batches_an_epoch_start_a_sized_dataset_again(backend):
    batches, follow = make_batches(), Follow()
    manager = train(backend, batches, [follow], num_epochs=2, num_batches_per_epoch=3)
    assert follow.epochs == [firsts(batches[:3])] * 2
    assert manager.logs["final_batch_step"] == 2


def test_an_endless_dataset_goes_on_without_losing_or_repeating_a_batch(backend):
    batches, follow = make_batches((4,) * 5), Follow()
    train(backend, itertools.cycle(batches), [follow], num_epochs=3, num_batches_per_epoch=3)
    cycled = firsts(batches * 2)
    assert follow.epochs == [cycled[0:3], cycled[3:6], cycled[6:9]]


def test_a_generator_trains_one_epoch(backend):
    batches, follow = make_batches(), Follow()
    manager = train(backend, (batch for batch in batches), [follow])
    assert follow.epochs == [firsts(batches)]
    assert manager.logs["final_batch_step"] is None


def test_a_dataset_without_a_length_starts_again_after_its_end(backend):
    batches, follow = make_batches((4,) * 5), Follow()
    with pytest.warns(MlpugWarning, match="ended after 2 batches in epoch 1, before num_batches_per_epoch=3") as seen:
        train(backend, Iterable(batches), [follow], num_epochs=4, num_batches_per_epoch=3)
    all_of_them = firsts(batches)
    assert follow.epochs == [all_of_them[:3], all_of_them[3:], all_of_them[:3], all_of_them[3:]]
    assert len(seen) == 1


def test_more_batches_than_a_sized_dataset_has_warn_when_the_manager_is_made(backend):
    batches, follow = make_batches(), Follow()
    trainer = backend.trainer()
    with pytest.warns(MlpugWarning, match="has 4 batches, fewer than num_batches_per_epoch=9") as seen:
        manager = TrainingManager(trainer, batches, num_epochs=2, callbacks=[follow], num_batches_per_epoch=9)
    trainer.set_training_model(backend.training_model())
    manager.start_training()
    assert follow.epochs == [firsts(batches)] * 2
    assert len(seen) == 1


def test_a_dataset_without_batches_is_an_error(backend):
    with pytest.raises(DatasetError, match="no batches in epoch 0"):
        train(backend, Iterable([]))


def test_a_generator_that_is_read_again_is_an_error(backend):
    with pytest.raises(DatasetError, match="no batches in epoch 1"):
        train(backend, (batch for batch in make_batches()), num_epochs=2)


def test_batches_of_another_dataset_are_evaluated_one_after_the_other(backend):
    losses = []

    class Read(Callback):
        def on_batch_training_completed(self, batch, logs):
            losses.append(logs.at("validation.batch.loss"))

    trainer = backend.trainer()
    trainer.set_training_model(backend.training_model())
    evaluator = MetricEvaluator(trainer=trainer)
    frozen = [evaluator.evaluate_batch(batch)["loss"] for batch in make_batches((3, 4), seed=5)]
    logger = TestMetricsLogger(
        make_batches((3, 4), seed=5), "validation", evaluator, batch_level=True, logging_mode="batch"
    )
    TrainingManager(trainer, make_batches((4,) * 3), callbacks=[logger, Read()]).start_training()
    assert len(losses) == 3
    assert losses[0] != losses[1]
    assert losses[0] != frozen[0]  # the weights have moved
