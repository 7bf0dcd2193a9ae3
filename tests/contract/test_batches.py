"""A batch is a batch, however it is computed: held against a formula for the whole of it."""

import math

import numpy as np
import pytest
from contract.backends.base import NUM_FEATURES
from contract.keeper import Keeper
from hypothesis import given, settings
from hypothesis import strategies as st

from mlpug.callbacks import Callback, LRSchedulerWrapper, TestMetricsLogger, TrainingMetricsLogger
from mlpug.errors import CheckpointMismatchError, ConfigurationError
from mlpug.evaluation import Metric, MetricEvaluator
from mlpug.trainers import TrainingManager


def make_batch(size, seed, counts=None):
    """(x, y, counts); the counts are from 0 to 4 unless they are given."""
    random = np.random.default_rng(seed)
    x, y = random.normal(size=(size, NUM_FEATURES)), random.normal(size=size)
    return x, y, random.integers(0, 5, size).astype(float) if counts is None else np.asarray(counts, float)


def groups_of(batches, num_steps, num_epochs=1):
    """What the batches make, whole."""
    for _ in range(num_epochs):
        for first in range(0, len(batches), num_steps):
            yield tuple(np.concatenate(parts) for parts in zip(*batches[first : first + num_steps], strict=True))


def gradient_of(batch, weights):
    x, y, counts = batch
    features = np.column_stack([x, np.ones(len(x))])
    return 2 * features.T @ (counts * (features @ weights - y)) / counts.sum()


def loss_of(batch, weights):
    x, y, counts = batch
    features = np.column_stack([x, np.ones(len(x))])
    return float(counts @ (features @ weights - y) ** 2 / counts.sum())


def trained_by_formula(batches, change=lambda gradient: gradient):
    """The weights, and the loss of each batch; `change` is done to the gradient of each."""
    weights, losses = np.zeros(NUM_FEATURES + 1), []
    for batch in batches:
        if batch[2].sum():
            losses.append(loss_of(batch, weights))
            weights = weights - 0.05 * change(gradient_of(batch, weights))
        else:
            losses.append(math.nan)
    return weights, losses


class Record(Callback):
    def __init__(self):
        self.batches, self.seen = [], []

    def on_batch_training_start(self, batch, logs):
        self.batches.append([np.asarray(part).tolist() for part in batch])

    def on_batch_training_completed(self, batch, logs):
        self.seen.append(logs["current"]["training"]["batch"].snapshot())

    def of(self, name):
        return [seen[name] for seen in self.seen]


METRICS = {
    "largest": Metric(
        lambda batch, output: output.auxiliary_results["predictions"], lambda inputs: float(inputs.max())
    ),
    "mean": Metric(lambda batch, output: output.auxiliary_results["mean"], lambda inputs: float(np.ravel(inputs)[0])),
    "labels": Metric(lambda batch, output: batch[1], lambda inputs: float(inputs.sum())),
}


def train(backend, batches, num_epochs=1, callbacks=(), **arguments):
    """Train by linear regression; return the record of it, the weights and the manager."""
    trainer, model, weights = backend.counting_regression(**arguments)
    record, evaluator = Record(), MetricEvaluator(trainer=trainer, metrics=METRICS)
    callbacks = [TrainingMetricsLogger(evaluator), record, *callbacks]
    manager = TrainingManager(trainer, batches, num_epochs=num_epochs, callbacks=callbacks)
    trainer.set_training_model(model)
    manager.start_training()
    return record, weights(), manager


def assert_close(backend, found, expected, scale=None):
    expected = np.asarray(expected)
    scale = np.nanmax(np.abs(expected), initial=1e-3) if scale is None else scale
    np.testing.assert_allclose(found, expected, rtol=backend.rounding, atol=backend.rounding * scale)


sizes = st.lists(st.integers(1, 6), min_size=1, max_size=5)


@given(
    sizes=sizes,
    chunk_size=st.none() | st.integers(1, 7),
    num_steps=st.integers(1, 4),
    seed=st.integers(0, 100),
    counts=st.sampled_from(["up to 4", "all the same", "few"]),
)
@settings(max_examples=20, deadline=None, derandomize=True, database=None)
def check_the_law(backend, sizes, chunk_size, num_steps, seed, counts):
    counted = {
        "up to 4": lambda size: None,
        "all the same": lambda size: [1] * size,
        "few": lambda size: [int(number == size - 1 and size > 2) for number in range(size)],
    }[counts]
    batches = [make_batch(size, seed + number, counted(size)) for number, size in enumerate(sizes)]
    record, weights, _ = train(
        backend, batches, batch_chunk_size=chunk_size, gradient_accumulation_steps=num_steps + (chunk_size is None)
    )
    expected, losses = trained_by_formula(groups_of(batches, num_steps + (chunk_size is None)))
    assert_close(backend, weights, expected)
    assert_close(backend, record.of("loss"), losses)


def test_the_update_is_that_of_the_whole_batch_whatever_it_is_cut_into_and_made_of(backend):
    check_the_law(backend)


def test_a_part_in_which_nothing_counts_counts_nothing_though_its_loss_is_nan(backend):
    batches = [make_batch(4, 0, [0, 0, 1, 3]), make_batch(2, 1, [0, 0]), make_batch(2, 2, [2, 0])]
    record, weights, _ = train(backend, batches, batch_chunk_size=2, gradient_accumulation_steps=2)
    expected, losses = trained_by_formula(groups_of(batches, 2))
    assert_close(backend, weights, expected)
    assert_close(backend, record.of("loss"), losses)
    assert np.isfinite(record.of("loss")).all()


def test_a_batch_in_which_nothing_counts_leaves_the_weights_alone_and_says_so(backend):
    batches = [make_batch(4, 0, [1, 1, 1, 1]), make_batch(4, 1, [0, 0, 0, 0]), make_batch(4, 2, [1, 1, 1, 1])]
    record, weights, _ = train(backend, batches, batch_chunk_size=2)
    assert_close(backend, weights, trained_by_formula(batches)[0])
    assert record.of("did_update_model") == [True, False, True]


def test_callbacks_and_logs_count_batches_and_see_them_whole(backend):
    batches = [make_batch(size, size) for size in (3, 2, 4, 1, 2)]
    steps = []

    class Steps(Callback):
        def on_batch_training_completed(self, batch, logs):
            steps.append((logs["current"]["batch_step"], logs["current"]["global_iter"], logs["final_batch_step"]))

    record, _, manager = train(backend, batches, 2, [Steps()], gradient_accumulation_steps=2, batch_chunk_size=2)
    groups = list(groups_of(batches, 2, num_epochs=2))
    assert manager.num_batches_per_epoch == 3
    assert steps == [(0, 0, 2), (1, 1, 2), (2, 2, 2), (0, 3, 2), (1, 4, 2), (2, 5, 2)]
    assert [[len(part) for part in batch] for batch in record.batches] == [[len(part) for part in g] for g in groups]
    for batch, expected in zip(record.batches, groups, strict=True):
        assert_close(backend, batch[0], expected[0])


def test_metrics_of_training_are_those_of_the_whole_batch(backend):
    batches = [make_batch(size, size) for size in (3, 2, 4)]
    record, _, _ = train(backend, batches, gradient_accumulation_steps=2, batch_chunk_size=2)
    weights = np.zeros(NUM_FEATURES + 1)
    for number, batch in enumerate(groups_of(batches, 2)):
        predictions = np.column_stack([batch[0], np.ones(len(batch[0]))]) @ weights
        assert_close(backend, record.of("largest")[number], predictions.max(), scale=1)
        assert_close(backend, record.of("mean")[number], predictions @ batch[2] / batch[2].sum(), scale=1)
        assert_close(backend, record.of("labels")[number], batch[1].sum(), scale=1)
        weights = weights - 0.05 * gradient_of(batch, weights)


def test_a_schedule_steps_once_for_each_batch(backend):
    rates = []

    class Rates(Callback):
        def on_batch_training_completed(self, batch, logs):
            rates.append(logs.at("training_params.batch.lr"))

    batches = [make_batch(3, seed, [1, 1, 1]) for seed in range(5)]
    schedule = LRSchedulerWrapper(lambda step: 1 / (1 + step))
    train(backend, batches, 1, [schedule, Rates()], gradient_accumulation_steps=2, batch_chunk_size=1)
    assert rates == pytest.approx([0.05, 0.05 / 2, 0.05 / 3])


def test_nothing_is_left_over_between_epochs_or_trainings(backend):
    batches = [make_batch(size, size) for size in (3, 2, 4)]
    options = {"gradient_accumulation_steps": 2, "batch_chunk_size": 2}
    trainer, model, weights = backend.counting_regression(**options)
    trainer.set_training_model(model)
    for _ in range(2):
        TrainingManager(trainer, batches).start_training()
    twice = weights()
    _, at_once, _ = train(backend, batches, num_epochs=2, **options)
    np.testing.assert_array_equal(twice, at_once)
    assert_close(backend, twice, trained_by_formula(groups_of(batches, 2, num_epochs=2))[0])


def norm_to(limit):
    return lambda gradient: gradient * min(1.0, limit / np.linalg.norm(gradient))


@pytest.mark.parametrize(
    "parts", [{}, {"batch_chunk_size": 2, "gradient_accumulation_steps": 2}], ids=["whole", "parts"]
)
@pytest.mark.parametrize(
    ("options", "change"),
    [
        ({"gradient_clip_norm": 0.5}, norm_to(0.5)),
        ({"gradient_clip_norm": 100}, lambda gradient: gradient),
        ({"gradient_clip_norm": math.inf}, lambda gradient: gradient),
        ({"gradient_clip_value": 0.25}, lambda gradient: np.clip(gradient, -0.25, 0.25)),
    ],
    ids=str,
)
def test_the_gradient_of_the_whole_batch_is_clipped_and_its_norm_is_in_the_logs(backend, options, change, parts):
    batches = [make_batch(size, size) for size in (3, 2, 4)]
    record, weights, _ = train(backend, batches, **options, **parts)
    norms = []

    def noted(gradient):
        norms.append(np.linalg.norm(gradient))
        return change(gradient)

    expected, _ = trained_by_formula(groups_of(batches, parts.get("gradient_accumulation_steps", 1)), noted)
    assert_close(backend, weights, expected)
    assert_close(backend, record.of("gradient_norm"), norms)
    assert {type(norm) for norm in record.of("gradient_norm")} == {float}
    assert max(norms) > 0.5


def test_without_clipping_there_is_no_norm(backend):
    record, _, _ = train(backend, [make_batch(3, 0)])
    assert "gradient_norm" not in record.seen[0]


def test_one_part_that_isnt_finite_leaves_out_the_whole_batch(backend):
    batches = [make_batch(4, seed, [1, 1, 1, 1]) for seed in range(3)]
    batches[1][1][3] = math.inf
    record, weights, _ = train(backend, batches, batch_chunk_size=3, on_non_finite="skip")
    assert record.of("did_update_model") == [True, False, True]
    assert_close(backend, weights, trained_by_formula([batches[0], batches[2]])[0])


class OnTheSecondAxis:
    def __init__(self, batch):
        self.x, self.y, self.counts = batch

    def __len__(self):
        return self.x.shape[1]

    def __getitem__(self, samples):
        return self.x[:, samples].T, self.y[samples], self.counts[samples]


def test_a_wrapper_cuts_what_has_its_samples_elsewhere(backend):
    batches = [make_batch(size, size) for size in (5, 2)]
    turned = [(x.T, y, counts) for x, y, counts in batches]
    trainer, model, weights = backend.counting_regression(batch_chunk_size=2, chunkable_batch_wrapper=OnTheSecondAxis)
    evaluator = MetricEvaluator(trainer=trainer)
    losses = []

    class Losses(Callback):
        def on_epoch_completed(self, logs):
            losses.append(logs.at("validation.dataset.loss"))

    test = TestMetricsLogger(turned, "validation", metric_evaluator=evaluator, batch_level=False)
    manager = TrainingManager(trainer, turned, callbacks=[test, Losses()])
    trainer.set_training_model(model)
    manager.start_training()
    expected, _ = trained_by_formula(batches)
    assert_close(backend, weights(), expected)
    both = tuple(np.concatenate(parts) for parts in zip(*batches, strict=True))
    assert_close(backend, losses, [loss_of(both, expected)])


def test_what_cant_be_cut_is_an_error_with_its_cure(backend):
    batches = [(x.T, y, counts) for x, y, counts in [make_batch(5, 0)]]
    with pytest.raises(ConfigurationError, match=r"can't be cut .*have \[5, 6\] samples.*chunkable_batch_wrapper"):
        train(backend, batches, batch_chunk_size=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_chunk_size": 0}, "batch_chunk_size must be a whole number of at least 1, not 0"),
        ({"batch_chunk_size": 2.5}, "batch_chunk_size must be a whole number of at least 1, not 2.5"),
        ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps must be a whole number of at least 1, not 0"),
        ({"chunkable_batch_wrapper": OnTheSecondAxis}, "chunkable_batch_wrapper is used with batch_chunk_size only"),
        ({"batch_chunk_size": 2, "chunkable_batch_wrapper": 3}, "chunkable_batch_wrapper must be a function, not 3"),
        (
            {"gradient_clip_norm": -1.0},
            "gradient_clip_norm must be a number above 0, or None for no clipping, not -1.0",
        ),
        ({"gradient_clip_value": 0}, "gradient_clip_value must be a number above 0"),
        ({"gradient_clip_norm": True}, "gradient_clip_norm must be a number above 0"),
        (
            {"gradient_clip_norm": 1, "gradient_clip_value": 1},
            "by gradient_clip_norm or by gradient_clip_value: give one",
        ),
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_when_the_trainer_is_made(backend, options, message):
    with pytest.raises(ConfigurationError, match=message):
        backend.counting_regression(**options)


def test_evaluating_is_in_the_trainers_chunks_and_gives_the_same(backend):
    dataset = [make_batch(size, size) for size in (5, 3)]
    _, _, manager = train(backend, [make_batch(4, 0)], batch_chunk_size=2)
    _, _, whole = train(backend, [make_batch(4, 0)])
    found, expected = (
        MetricEvaluator(trainer=each.trainer, metrics={"largest": METRICS["largest"]}).evaluate_dataset(dataset)
        for each in (manager, whole)
    )
    assert found.keys() == expected.keys() == {"loss", "largest"}
    for name, value in expected.items():
        assert_close(backend, found[name], value)


@pytest.mark.parametrize("num_batches", [6, 7])
def test_a_run_resumed_after_any_batch_equals_one_never_stopped(backend, tmp_path, num_batches):
    batches = [make_batch(2 + number % 3, number) for number in range(num_batches)]
    options = {"gradient_accumulation_steps": 2, "batch_chunk_size": 2}
    keep = Keeper(tmp_path)
    whole, weights, _ = train(backend, batches, 2, [keep], **options)
    assert {done for _, done in keep.saved} == set(range(1, 2 * -(-num_batches // 2) + 1))
    for path, done in keep.saved[:-1]:
        trainer, model, weights_now = backend.counting_regression(**options)
        record = Record()
        evaluator = MetricEvaluator(trainer=trainer, metrics=METRICS)
        manager = TrainingManager(trainer, batches, 2, callbacks=[TrainingMetricsLogger(evaluator), record])
        trainer.set_training_model(model)
        manager.start_training(path)
        assert (done, record.batches) == (done, whole.batches[done:])
        assert record.of("loss") == whole.of("loss")[done:]
        np.testing.assert_array_equal(weights_now(), weights)


def test_another_number_of_steps_within_an_epoch_is_refused(backend, tmp_path):
    batches = [make_batch(2, number) for number in range(8)]
    keep = Keeper(tmp_path)

    def manager_of(num_steps, callbacks):
        trainer, model, _ = backend.counting_regression(gradient_accumulation_steps=num_steps)
        trainer.set_training_model(model)
        return TrainingManager(trainer, batches, callbacks=callbacks, num_batches_per_epoch=2)

    manager_of(2, [keep]).start_training()
    with pytest.raises(CheckpointMismatchError, match="where gradient_accumulation_steps was 2, and it is 4 now"):
        manager_of(4, []).start_training(keep.saved[0][0])
