"""Batches that are made of several of the dataset's and computed in chunks: callbacks, metrics and data see no parts.

The law itself is held against a formula in ``test_batches.py``.
"""

import dataclasses
import itertools
import math
from typing import Any, NamedTuple

import numpy as np
import pytest
from contract.backends.base import make_batches

from mlpug.callbacks import BatchSizeLogger, Callback, TrainingMetricsLogger
from mlpug.errors import MlpugWarning, NonFiniteLoss
from mlpug.evaluation import Metric, MetricEvaluator
from mlpug.trainers import TrainingManager

PARTS = {"batch_chunk_size": 2, "gradient_accumulation_steps": 2}


def joined(batches, num_steps):
    """What each group of batches is as one."""
    for first in range(0, len(batches), num_steps):
        yield tuple(np.concatenate(parts) for parts in zip(*batches[first : first + num_steps], strict=True))


def train(backend, dataset, callbacks=(), options=PARTS, returns=None, spy=None, **arguments):
    trainer = backend.trainer(**options)
    manager = TrainingManager(trainer, dataset, callbacks=callbacks, **arguments)
    trainer.set_training_model(backend.training_model(spy, returns))
    manager.start_training()
    return manager


def assert_same_update(backend, expected, first):
    """Relative to the size of the update of all weights."""
    weights = backend.weights()
    assert weights.keys() == expected.keys()
    update = {name: expected[name] - first[name] for name in expected}
    size = max(np.abs(change).max() for change in update.values())
    assert size > 0
    for name, weight in weights.items():
        np.testing.assert_allclose(weight - first[name], update[name], rtol=0, atol=backend.rounding * size)


class Follow(Callback):
    """Keeps the first targets of each of the dataset's batches that are in a batch, epoch by epoch."""

    def __init__(self):
        self.epochs, self.steps = [], []

    def on_epoch_start(self, logs):
        self.epochs.append([])

    def on_batch_training_completed(self, batch, logs):
        self.epochs[-1].append(np.asarray(batch[1]).tolist())
        self.steps.append((logs["current"]["batch_step"], logs["current"]["global_iter"], logs["final_batch_step"]))


class Iterable:
    """Iterates afresh each time, and doesn't know its length."""

    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


def targets(batches, num_steps):
    return [y.astype(float).tolist() for _, y in joined(batches, num_steps)]


def assert_same_targets(backend, found, expected):
    """Keras computes in single precision."""
    assert [[len(batch) for batch in epoch] for epoch in found] == [[len(batch) for batch in e] for e in expected]
    for epoch, of_expected in zip(found, expected, strict=True):
        for batch, of_batch in zip(epoch, of_expected, strict=True):
            np.testing.assert_allclose(batch, of_batch, rtol=1e-6)


@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        ((5, 3, 4, 1, 2), {"batch_chunk_size": 2, "gradient_accumulation_steps": 2}),
        ((3, 1, 4), {"gradient_accumulation_steps": 2}),
        ((7, 2), {"batch_chunk_size": 3}),
        ((2, 2, 1), {"batch_chunk_size": 9, "gradient_accumulation_steps": 5}),
    ],
    ids=str,
)
def test_a_network_is_trained_as_by_hand_on_whole_batches(backend, sizes, options):
    backend.without_dropout()
    batches, first = make_batches(sizes), backend.weights()
    num_steps = options.get("gradient_accumulation_steps", 1)
    expected, _ = backend.train_by_hand(list(joined(batches, num_steps)), num_epochs=2)
    train(backend, batches, options=options, num_epochs=2)
    assert_same_update(backend, expected, first)


def test_a_batch_without_samples_counts_nothing_in_a_group(backend):
    some, more = ((x, y, np.ones(len(y))) for x, y in make_batches((3, 2)))
    none = tuple(part[:0] for part in some)

    def trained_on(batches):
        trainer, model, weights = backend.counting_regression(gradient_accumulation_steps=len(batches))
        trainer.set_training_model(model)
        TrainingManager(trainer, batches).start_training()
        return weights()

    with_none, without = trained_on([some, none, more]), trained_on([some, more])
    np.testing.assert_allclose(with_none, without, rtol=0, atol=backend.rounding * np.abs(without).max())


# What callbacks hear.


def test_native_callbacks_hear_of_each_batch_once(backend):
    heard = []
    train(backend, make_batches((3, 2, 4, 1, 2)), [backend.native_callback(heard.append)], num_epochs=2)
    epoch = ["epoch_started", *["batch_started", "batch_ended"] * 3, "epoch_ended"]
    assert heard == ["training_started", *epoch, *epoch]


@dataclasses.dataclass(frozen=True)
class Sample:
    x: Any
    y: Any
    note: str = "not an array"


NESTINGS = {
    "tuple": lambda x, y: (x, y),
    "list": lambda x, y: [x, y],  # as torch's DataLoader makes them
    "dict": lambda x, y: {"x": x, "nested": {"y": y, "n": 3}},
    "dataclass": Sample,
}


@pytest.mark.parametrize("nest", NESTINGS.values(), ids=NESTINGS)
def test_callbacks_and_metrics_see_a_batch_of_any_nesting_as_one(backend, nest):
    batches, seen = make_batches((3, 2, 4)), []

    class See(Callback):
        def on_batch_training_start(self, batch, logs):
            seen.append([batch])

        def on_batch_training_completed(self, batch, logs):
            training = logs["current"]["training"]["batch"]
            seen[-1] += [batch, logs.at("training_params.batch.size"), training["loss"], training["of_y"]]

    backend.without_dropout()
    trainer = backend.trainer(**PARTS)
    of_y = Metric(lambda batch, output: (y_of(batch), output.auxiliary_results), mean_squared_error)
    evaluator = MetricEvaluator(trainer=trainer, metrics={"of_y": of_y})
    manager = TrainingManager(
        trainer,
        [nest(*batch) for batch in batches],
        callbacks=[BatchSizeLogger(), TrainingMetricsLogger(evaluator), See()],
    )
    trainer.set_training_model(backend.training_model())
    manager.start_training()

    for (started, completed, size, loss, of_y), (x, y) in zip(seen, joined(batches, 2), strict=True):
        assert size == len(y)
        for batch in (started, completed):
            assert type(batch) is type(nest(x, y))
            np.testing.assert_allclose(np.asarray(y_of(batch)), y, rtol=1e-6)
        np.testing.assert_allclose(of_y, loss, rtol=1e-6)


def y_of(batch):
    if isinstance(batch, dict):
        return batch["nested"]["y"]
    return batch.y if hasattr(batch, "y") else batch[1]


def mean_squared_error(inputs):
    y, predictions = inputs
    return float(np.mean((np.asarray(y) - predictions) ** 2))


def test_parts_that_differ_in_another_axis_train_and_are_a_list_for_callbacks(backend):
    """As texts that were padded for each batch of the dataset."""
    batches, shapes = make_batches((3, 2, 4)), []

    class Shapes(Callback):
        def on_batch_training_completed(self, batch, logs):
            padded = batch["padded"]
            shapes.append([tuple(each.shape) for each in padded] if isinstance(padded, list) else tuple(padded.shape))

    def nested(x, y):
        return {"x": x, "nested": {"y": y}, "padded": np.zeros((len(y), 10 + len(y)))}

    backend.without_dropout()
    first = backend.weights()
    train(backend, [nested(*batch) for batch in batches], [Shapes()])
    expected, _ = backend.train_by_hand(list(joined(batches, 2)), num_epochs=1)
    assert_same_update(backend, expected, first)
    assert shapes == [[(3, 13), (2, 12)], (4, 14)]


# What metrics see.


def test_auxiliary_results_of_every_kind_are_those_of_the_whole_batch(backend):
    batches = make_batches((3, 2, 4))

    def returns(loss, num_samples, predictions):
        results = {
            "tuple": (predictions, predictions * 2),
            "list": [predictions, predictions * 3],
            "scalar": loss,
            "number": 2.5,
            "whole number": 4,
            "nothing": None,
        }
        return loss, num_samples, results

    def values_of(backend, dataset, options):
        seen = []

        class See(Callback):
            def on_batch_training_completed(self, batch, logs):
                results = self.manager.trainer.adapter.to_host(self.manager.step_output.auxiliary_results)
                seen.append([results, self.manager.trainer.adapter.to_host(self.manager.step_output.num_samples)])

        backend.without_dropout()
        train(backend, dataset, [See()], options, returns)
        return seen

    in_parts = values_of(backend, batches, PARTS)
    whole = values_of(type(backend)(), list(joined(batches, 2)), {})
    for (found, num_samples), (expected, num_expected) in zip(in_parts, whole, strict=True):
        assert int(num_samples) == int(num_expected)
        assert found.keys() == expected.keys()
        assert found["nothing"] is expected["nothing"] is None
        for name in ("tuple", "list"):
            assert len(found[name]) == len(expected[name]) == 2
            for one, other in zip(found[name], expected[name], strict=True):
                np.testing.assert_allclose(one, other, rtol=0, atol=backend.rounding * np.abs(other).max(initial=1))
        for name in ("scalar", "number", "whole number"):
            np.testing.assert_allclose(found[name], expected[name], rtol=backend.rounding)


def test_a_sliding_window_weighs_batches_by_all_of_their_samples(backend):
    batches, seen = make_batches((3, 2, 4, 1, 2)), []

    class See(Callback):
        def on_batch_training_completed(self, batch, logs):
            seen.append((logs.at("training.batch.loss"), logs.at("training.sliding_window.loss")))

    trainer = backend.trainer(**PARTS)
    logger = TrainingMetricsLogger(MetricEvaluator(trainer=trainer), sliding_window_length=2)
    manager = TrainingManager(trainer, batches, num_epochs=2, callbacks=[logger, See()])
    trainer.set_training_model(backend.training_model())
    manager.start_training()

    sizes, losses = [5, 5, 2] * 2, [loss for loss, _ in seen]
    assert len(losses) == 6
    for at, (_, found) in enumerate(seen):
        window = range(max(0, at - 1), at + 1)
        expected = math.fsum(losses[i] * sizes[i] for i in window) / sum(sizes[i] for i in window)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_settings_hold_for_all_chunks_of_a_batch_and_change_with_the_next(backend):
    batches, losses = make_batches((3, 2)) * 3, []
    scales = [1.0, 10.0, 100.0]

    class Settings(Callback):
        def on_batch_training_start(self, batch, logs):
            logs["training_settings"] = {"scale": scales[logs["current"]["global_iter"]]}
            x, y = next(joined(batches, 2))
            losses.append([evaluator.evaluate_batch((x, y), {"scale": 1.0})["loss"]])

        def on_batch_training_completed(self, batch, logs):
            losses[-1].append(logs.at("training.batch.loss"))

    backend.without_dropout()
    trainer = backend.trainer(**PARTS)
    evaluator = MetricEvaluator(trainer=trainer)
    manager = TrainingManager(trainer, batches, callbacks=[TrainingMetricsLogger(evaluator), Settings()])
    trainer.set_training_model(backend.training_model())
    manager.start_training()
    np.testing.assert_allclose(
        [loss for _, loss in losses],
        [unscaled * scale for (unscaled, _), scale in zip(losses, scales, strict=True)],
        rtol=1e-6,
    )


# The data.


@pytest.mark.parametrize("kind", [list, Iterable])
def test_every_epoch_has_all_batches_and_ends_with_those_that_are_left(backend, kind):
    batches, follow = make_batches((3, 2, 4, 1, 2)), Follow()
    train(backend, kind(batches), [follow], num_epochs=2)
    assert_same_targets(backend, follow.epochs, [targets(batches, 2)] * 2)


def test_the_batches_of_an_epoch_are_counted_as_callbacks_count_them(backend):
    batches, follow = make_batches((3, 2, 4, 1, 2)), Follow()
    manager = train(backend, batches, [follow], num_epochs=2, num_batches_per_epoch=2)
    assert manager.num_batches_per_epoch == 2
    assert follow.steps == [(0, 0, 1), (1, 1, 1), (0, 2, 1), (1, 3, 1)]
    assert_same_targets(backend, follow.epochs, [targets(batches[:4], 2)] * 2)


def test_more_of_them_than_there_are_warn_when_the_manager_is_made(backend):
    trainer = backend.trainer(**PARTS)
    with pytest.warns(
        MlpugWarning, match="has 2 batches made of 2 of its own each, fewer than num_batches_per_epoch=3"
    ):
        manager = TrainingManager(trainer, make_batches((2, 2, 2)), num_batches_per_epoch=3)
    assert manager.num_batches_per_epoch == 2


def test_an_endless_dataset_goes_on_in_the_next_epoch_without_losing_or_repeating_a_batch(backend):
    batches, follow, drawn = make_batches((2,) * 5), Follow(), []

    def endless():
        for batch in itertools.cycle(batches):
            drawn.append(batch)
            yield batch

    train(backend, endless(), [follow], num_epochs=3, num_batches_per_epoch=2)
    all_of_them = targets(batches * 3, 2)
    assert_same_targets(backend, follow.epochs, [all_of_them[0:2], all_of_them[2:4], all_of_them[4:6]])
    assert len(drawn) == 12


def test_a_dataset_without_a_length_that_ends_within_an_epoch_starts_again_in_the_next(backend):
    batches, follow = make_batches((2,) * 5), Follow()
    with pytest.warns(MlpugWarning, match="ended after 1 batches in epoch 1"):
        train(backend, Iterable(batches), [follow], num_epochs=3, num_batches_per_epoch=2)
    all_of_them = targets(batches, 2)
    assert_same_targets(backend, follow.epochs, [all_of_them[:2], all_of_them[2:], all_of_them[:2]])


# What fails in a part.


def trained_on_after_an_error(backend, batches, error, returns=None, spy=None, **options):
    """The weights after an error, and after a second training by the same trainer of the first batches alone."""
    backend.without_dropout()
    trainer = backend.trainer(**PARTS, **options)
    trainer.set_training_model(backend.training_model(spy, returns))
    with pytest.raises(error), np.errstate(invalid="ignore"):
        TrainingManager(trainer, batches).start_training()
    after_error = backend.weights()
    TrainingManager(trainer, batches[:2]).start_training()
    return after_error, backend.weights()


def assert_only_whole_batches_count(backend, found, batches, **options):
    """The first two of the batches are the only ones that count, once before the error and once after it."""
    other = type(backend)()
    other.without_dropout()
    trainer = other.trainer(**PARTS, **options)
    trainer.set_training_model(other.training_model())
    for weights in found:
        TrainingManager(trainer, batches[:2]).start_training()
        for name, weight in other.weights().items():
            np.testing.assert_array_equal(weights[name], weight)


def test_a_chunk_whose_loss_isnt_finite_leaves_nothing_of_the_chunks_before_it(backend):
    batches = make_batches((2, 4, 4, 2))
    batches[3][1][1] = np.nan
    found = trained_on_after_an_error(backend, batches, NonFiniteLoss, on_non_finite="raise")
    assert_only_whole_batches_count(backend, found, batches, on_non_finite="raise")


class OurError(Exception):
    pass


class Noted(NamedTuple):
    x: Any
    y: Any
    note: str = "fine"


def test_an_error_in_a_later_chunk_leaves_nothing_of_the_chunks_before_it(backend):
    batches = [Noted(*batch) for batch in make_batches((2, 4, 4, 2))]
    batches[3] = batches[3]._replace(note="fails")

    def fail(batch, settings, inference_mode):
        """Compiled models see the note too, when they are traced for it."""
        if batch.note == "fails":
            raise OurError("on purpose")

    found = trained_on_after_an_error(backend, batches, OurError, spy=fail)
    assert_only_whole_batches_count(backend, found, batches)
