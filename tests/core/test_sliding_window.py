"""Metrics over the latest batches, against computing them again from those batches."""

import math

import numpy as np
import pytest

from mlpug.evaluation import Metric, WeightedMean
from mlpug.evaluation.sliding_window import sliding_window

MEAN = Metric(inputs=lambda batch, output: (output.loss, output.num_samples), compute=WeightedMean())


class SumOfSquares:
    """A streaming metric."""

    def __init__(self):
        self.reset()

    def update(self, values):
        self.total += float(np.sum(values**2))

    def compute(self):
        return self.total

    def reset(self):
        self.total = 0.0


@pytest.fixture
def to_host():
    """Copies nothing, and keeps a list of what it was asked to copy."""

    class ToHost:
        def __init__(self):
            self.copied = []

        def __call__(self, tree):
            self.copied.append(tree)
            return tree

    return ToHost()


@pytest.fixture
def batches():
    """Forty batches of whole numbers, so that every sum is exact in any order."""
    random = np.random.default_rng(6)
    return [random.integers(-50, 50, size=size).astype(float) for size in random.integers(1, 9, size=40)]


def latest(batches, step, length):
    return batches[max(0, step + 1 - length) : step + 1]


@pytest.mark.parametrize("read_every", [1, 3, 17])
@pytest.mark.parametrize("length", [2, 5, 60])
def test_a_mean_window_is_the_mean_over_the_samples_of_the_latest_batches(batches, to_host, length, read_every):
    window = sliding_window(MEAN, length, to_host)
    for step, batch in enumerate(batches):
        # the sums are whole numbers, and the loss is given as a pair of chunks: (sum, weight 1) is exact
        window.add([(float(batch.sum()), 1), (0.0, len(batch) - 1)])
        if step % read_every == 0:
            seen = latest(batches, step, length)
            assert window.value() == math.fsum(np.concatenate(seen)) / sum(map(len, seen))


@pytest.mark.parametrize("read_every", [1, 3, 17])
@pytest.mark.parametrize("length", [1, 5, 60])
@pytest.mark.parametrize(
    ("compute", "again"),
    [
        (lambda values: float(values.max() - values.min()), lambda values: max(values) - min(values)),
        (SumOfSquares(), lambda values: sum(value**2 for value in values)),
    ],
    ids=["function", "streaming"],
)
def test_any_other_window_is_the_metric_of_the_latest_batches(batches, to_host, compute, again, length, read_every):
    window = sliding_window(Metric(inputs=lambda batch, _: batch, compute=compute), length, to_host)
    for step, batch in enumerate(batches):
        half = (len(batch) + 1) // 2
        window.add([chunk for chunk in (batch[:half], batch[half:]) if len(chunk)])
        if step % read_every == 0:
            assert window.value() == again(np.concatenate(latest(batches, step, length)).tolist())


@pytest.mark.parametrize("read_after", [1, 5])
def test_a_mean_window_of_one_batch_has_the_loss_of_that_batch_to_the_last_bit(to_host, read_after):
    for loss in np.random.default_rng(8).normal(size=100).tolist():
        window = sliding_window(MEAN, 10, to_host)
        window.add([(loss, 49)])
        assert window.value() == MEAN.value([(loss, 49)], to_host) == loss


@pytest.mark.parametrize("compute", [WeightedMean(), max], ids=["mean", "function"])
def test_adding_transfers_nothing(to_host, compute):
    window = sliding_window(Metric(inputs=lambda batch, _: batch, compute=compute), 5, to_host)
    for number in range(20):
        window.add([(float(number), 1)])

    assert to_host.copied == []


def flat(copied):
    """Every input that was copied, out of the lists of batches and chunks."""
    return [item for tree in copied for item in (flat(tree) if isinstance(tree, list) else [tree])]


@pytest.mark.parametrize("compute", [WeightedMean(), lambda inputs: float(inputs[0].max())], ids=["mean", "function"])
def test_each_input_is_copied_once_however_often_the_window_is_read(to_host, compute):
    window = sliding_window(Metric(inputs=lambda batch, _: batch, compute=compute), 4, to_host)
    given = [(float(number), 1) for number in range(12)]
    for number, picked in enumerate(given):
        window.add([picked])
        if number % 3 == 2:
            window.value()
            window.value()

    assert flat(to_host.copied) == given


def test_what_left_unread_is_never_copied(to_host):
    window = sliding_window(MEAN, 2, to_host)
    for number in range(10):
        window.add([(float(number), 1)])

    assert window.value() == 8.5
    assert flat(to_host.copied) == [(8.0, 1), (9.0, 1)]


def test_the_inputs_of_a_streaming_metric_stay_on_their_device(to_host):
    window = sliding_window(Metric(inputs=lambda batch, _: batch, compute=SumOfSquares()), 2, to_host)
    for number in (1.0, 2.0, 3.0):
        window.add([np.array([number])])

    assert window.value() == 13.0
    assert to_host.copied == []


def test_a_streaming_window_leaves_the_users_metric_as_it_is(to_host):
    mine = SumOfSquares()
    window = sliding_window(Metric(inputs=lambda batch, _: batch, compute=mine), 2, to_host)
    window.add([np.array([3.0])])

    assert (window.value(), window.value(), mine.total) == (9.0, 9.0, 0.0)
