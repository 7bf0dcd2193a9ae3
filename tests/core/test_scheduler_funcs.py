"""Each schedule's first 1,000 factors, by the formulas that its names stand for."""

import math

import numpy as np
import pytest

from mlpug import scheduler_funcs
from mlpug.errors import ConfigurationError

STEPS = np.arange(1000)


def factors(function):
    found = [function(int(step)) for step in STEPS]
    assert {type(factor) for factor in found} == {float}
    return found


def closed(warmup, decay_starts, decay_ends, final, shape):
    """Of arrays: the warm-up times the decay, each clipped to its part."""
    warm = np.minimum(STEPS / warmup, 1.0) if warmup else np.ones(len(STEPS))
    length = decay_ends - decay_starts
    done = np.clip((STEPS - decay_starts) / length, 0.0, 1.0) if length else (decay_starts <= STEPS).astype(float)
    return warm * (final + (1.0 - final) * shape(done))


def line(done):
    return 1.0 - done


def half_cosine(done):
    return (1.0 + np.cos(np.pi * done)) / 2.0


@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
@pytest.mark.parametrize(("warmup", "steps"), [(0, 900), (100, 900), (1, 2), (300, 300), (0, 0), (100, 5000)])
@pytest.mark.parametrize(
    ("make", "shape"),
    [(scheduler_funcs.linear_with_warmup, line), (scheduler_funcs.cosine_with_warmup, half_cosine)],
    ids=["linear", "cosine"],
)
def test_linear_and_cosine(make, shape, warmup, steps, final):
    expected = closed(warmup, warmup, steps, final, shape)

    np.testing.assert_allclose(factors(make(warmup, steps, final)), expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("warmup", "stable", "decay"), [(100, 500, 300), (0, 0, 1000), (10, 0, 0), (50, 100, 5000)])
@pytest.mark.parametrize("final", [0.0, 0.25])
def test_warmup_stable_decay(warmup, stable, decay, final):
    expected = closed(warmup, warmup + stable, warmup + stable + decay, final, line)
    found = factors(scheduler_funcs.warmup_stable_decay(warmup, stable, decay, final))

    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("warmup", [0, 1, 100])
def test_constant(warmup):
    expected = [min(step / warmup, 1.0) if warmup else 1.0 for step in STEPS.tolist()]

    assert factors(scheduler_funcs.constant_with_warmup(warmup)) == expected


def test_they_depend_on_the_step_alone():
    function = scheduler_funcs.cosine_with_warmup(10, 100)
    backwards = [function(int(step)) for step in STEPS[::-1]]

    assert backwards[::-1] == factors(function)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: scheduler_funcs.constant_with_warmup(-1), "num_warmup_steps must be a whole number of at least 0"),
        (lambda: scheduler_funcs.constant_with_warmup(1.5), "num_warmup_steps must be a whole number of at least 0"),
        (lambda: scheduler_funcs.linear_with_warmup(True, 10), "num_warmup_steps must be a whole number"),
        (lambda: scheduler_funcs.linear_with_warmup(11, 10), "num_steps must be at least num_warmup_steps"),
        (lambda: scheduler_funcs.cosine_with_warmup(1, "10"), "num_steps must be a whole number of at least 0"),
        (lambda: scheduler_funcs.cosine_with_warmup(1, 10, 1.5), "final_factor must be a number from 0 to 1"),
        (lambda: scheduler_funcs.cosine_with_warmup(1, 10, math.nan), "final_factor must be a number from 0 to 1"),
        (lambda: scheduler_funcs.warmup_stable_decay(1, -2, 3), "num_stable_steps must be a whole number"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ConfigurationError, match=message):
        call()
