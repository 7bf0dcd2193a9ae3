"""Weighted means, against exact rational arithmetic."""

import math
from fractions import Fraction

import numpy as np
import pytest

from mlpug.evaluation.mean import SlidingMean, WeightedMean


def weighted_mean(values, weights):
    mean = WeightedMean()
    for value, weight in zip(values, weights, strict=True):
        mean.update(value, weight)
    return mean.compute()


def exact_mean(values, weights):
    """The true mean, rounded once."""
    total = sum((Fraction(value) * Fraction(weight) for value, weight in zip(values, weights, strict=True)), Fraction())
    return float(total / sum(map(Fraction, weights)))


def exact_window(entries):
    """The true mean of (value, weight) entries, rounded once."""
    return exact_mean(*zip(*entries, strict=True))


def test_mean_equals_the_sum_of_products_over_the_sum_of_weights():
    # Small whole numbers and halves: every product and sum is a double, so nothing is rounded before the division.
    values, weights = [0.5, 2.0, -1.5, 8.0], [3, 1, 6, 2]

    assert weighted_mean(values, weights) == (1.5 + 2.0 - 9.0 + 16.0) / 12


@pytest.mark.parametrize("seed", range(5))
def test_the_mean_of_many_is_the_true_mean_rounded_once(seed):
    random = np.random.default_rng(seed)
    values = (random.normal(size=1000) * 10.0 ** random.uniform(-9, 9, size=1000)).tolist()
    weights = random.integers(1, 65, size=1000).tolist()

    assert weighted_mean(values, weights) == exact_mean(values, weights)


def test_weights_may_be_any_numbers():
    random = np.random.default_rng(9)
    values, weights = random.normal(size=100).tolist(), random.uniform(size=100).tolist()

    assert weighted_mean(values, weights) == exact_mean(values, weights)


def test_the_mean_does_not_depend_on_the_order():
    values, weights = [1e16, 0.1, -1e16, 0.3], [3, 7, 3, 1]

    assert weighted_mean(values, weights) == weighted_mean(values[::-1], weights[::-1]) == exact_mean(values, weights)


@pytest.mark.parametrize("weight", [1, 3, 7, 10, 49, 0.1])
def test_one_value_is_its_own_mean_to_the_last_bit(weight):
    values = np.random.default_rng(1).normal(size=500).tolist()

    assert [weighted_mean([value], [weight]) for value in values] == values
    assert weight in (1,) or any(value * weight / weight != value for value in values)  # the trap is real


def test_a_weight_is_one_where_none_is_given():
    mean = WeightedMean()
    mean.update(1.0)
    mean.update(4.0, 2)

    assert mean.compute() == 3.0


@pytest.mark.parametrize("value", [2.0, math.nan, math.inf])
def test_what_weighs_nothing_changes_nothing(value):
    assert weighted_mean([1.0, value, 2.0], [3, 0, 1]) == 1.25


@pytest.mark.parametrize(("values", "weights"), [([], []), ([2.0], [0]), ([2.0, 3.0], [0, 0])])
def test_the_mean_is_nan_where_nothing_weighs_anything(values, weights):
    assert math.isnan(weighted_mean(values, weights))


def test_reset_forgets_everything():
    mean = WeightedMean()
    mean.update(math.nan, 3)
    mean.reset()
    assert math.isnan(mean.compute())

    mean.update(0.1, 3)
    assert mean.compute() == 0.1


def test_reading_the_mean_does_not_end_it():
    mean = WeightedMean()
    seen = []
    for value in (1.0, 2.0, 6.0):
        mean.update(value, 2)
        seen.append(mean.compute())

    assert seen == [1.0, 1.5, 3.0]


def test_scalar_arrays_are_taken_as_numbers():
    mean = WeightedMean()
    mean.update(np.float32(0.25), np.array(3))
    mean.update(np.array(0.5), np.int64(1))

    assert mean.compute() == 0.3125
    assert type(mean.compute()) is float


@pytest.mark.parametrize("length", [1, 2, 7, 50])
@pytest.mark.parametrize("spread", [0, 12, 140], ids="magnitudes over {} decades".format)
def test_sliding_mean_is_exact_at_every_step(length, spread):
    random = np.random.default_rng(length)
    values = (random.normal(size=300) * 10.0 ** random.uniform(-spread, spread, size=300)).tolist()
    weights = random.integers(1, 100, size=300).tolist()
    entries = list(zip(values, weights, strict=True))
    mean = SlidingMean(length)
    for step, entry in enumerate(entries):
        mean.add([entry])
        assert mean.value() == exact_window(entries[max(0, step + 1 - length) : step + 1])


@pytest.mark.parametrize("weight", [1, 3, 7, 49])
def test_a_window_with_one_value_gives_that_value_to_the_last_bit(weight):
    for value in np.random.default_rng(2).normal(size=200).tolist():
        mean = SlidingMean(length=1)
        mean.add([(math.pi, 5)])
        mean.add([(value, weight)])
        assert mean.value() == value


@pytest.mark.parametrize("large", [1e16, 1e300])
def test_a_large_value_that_left_leaves_no_trace(large):
    mean = SlidingMean(length=2)
    for value in (large, 0.1, 0.2):
        mean.add([(value, 1)])

    assert mean.value() == exact_mean([0.1, 0.2], [1, 1])


def test_a_large_weight_that_left_leaves_no_trace():
    mean = SlidingMean(length=2)
    for value, weight in ((1.0, 1e17), (0.5, 1.0), (0.25, 3.0)):
        mean.add([(value, weight)])

    assert mean.value() == (0.5 + 0.75) / 4


def test_weights_that_are_no_whole_numbers_are_summed_exactly_too():
    random = np.random.default_rng(4)
    entries = list(zip(random.normal(size=400).tolist(), random.uniform(size=400).tolist(), strict=True))
    mean = SlidingMean(length=5)
    for step, entry in enumerate(entries):
        mean.add([entry])
        if step >= 5:
            assert mean.value() == exact_window(entries[step - 4 : step + 1])


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_in_the_mean_while_it_is_in_the_window(odd):
    mean = SlidingMean(length=2)
    seen = []
    for value in (0.5, odd, 1.5, 2.5):
        mean.add([(value, 2)])
        seen.append(mean.value())

    assert (seen[0], seen[3]) == (0.5, 2.0)
    assert all(math.isnan(value) if math.isnan(odd) else value == odd for value in seen[1:3])


def test_infinities_of_both_signs_give_nan_and_leave():
    mean = SlidingMean(length=2)
    seen = []
    for value in (math.inf, -math.inf, 1.0, 3.0):
        mean.add([(value, 1)])
        seen.append(mean.value())

    assert (seen[0], seen[2], seen[3]) == (math.inf, -math.inf, 2.0)
    assert math.isnan(seen[1])


def test_finite_values_whose_sum_overflows_can_be_read_and_leave_the_window():
    mean = SlidingMean(length=2)
    for value in (1.5e308, 1.5e308):
        mean.add([(value, 1)])
    assert mean.value() == 1.5e308

    for value in (1.0, 3.0):
        mean.add([(value, 1)])
    assert mean.value() == 2.0


def test_chunks_of_a_batch_enter_and_leave_together():
    mean = SlidingMean(length=1)
    mean.add([(8.0, 4), (2.0, 1)])
    assert mean.value() == (32.0 + 2.0) / 5

    mean.add([(1.0, 2), (0.5, 2)])
    assert mean.value() == 0.75


def test_batches_without_weight_take_their_place_in_the_window():
    mean = SlidingMean(length=2)
    assert math.isnan(mean.value())

    seen = []
    for value, weight in ((4.0, 1), (math.inf, 0), (9.0, 0), (2.0, 1)):
        mean.add([(value, weight)])
        seen.append(mean.value())

    assert (seen[0], seen[1], seen[3]) == (4.0, 4.0, 2.0)
    assert math.isnan(seen[2])
