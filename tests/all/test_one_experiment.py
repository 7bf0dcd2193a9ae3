"""One experiment gives one result, on whatever backend it runs."""

import itertools

import numpy as np
import pytest

BACKENDS = ["pytorch", "tensorflow", "jax"]
LEARNING_RATE = 0.05
RELATIVE = 1e-4  # what is promised; rounding in single precision, 6e-8 a step, stays below it over 200 steps


def experiment():
    random = np.random.default_rng(0)
    weights = [random.normal(size=shape, scale=0.5) for shape in ((6, 16), (16,), (16, 1), (1,))]
    direction, batches = random.normal(size=6), []
    for _ in range(200):
        x = random.normal(size=(16, 6))
        batches.append((x, np.sin(x @ direction) + 0.3 * random.normal(size=16)))
    return weights, batches


def losses_by_hand():
    (first, first_bias, second, second_bias), batches = experiment()
    losses = []
    for x, y in batches:
        hidden = np.tanh(x @ first + first_bias)
        errors = (hidden @ second + second_bias)[:, 0] - y
        losses.append((errors**2).mean())
        to_output = 2 * errors[:, None] / len(y)
        to_hidden = (to_output @ second.T) * (1 - hidden**2)
        second, second_bias = (
            second - LEARNING_RATE * hidden.T @ to_output,
            second_bias - LEARNING_RATE * to_output.sum(),
        )
        first, first_bias = first - LEARNING_RATE * x.T @ to_hidden, first_bias - LEARNING_RATE * to_hidden.sum(axis=0)
    return losses


@pytest.fixture(scope="module")
def losses(in_processes):
    weights, batches = experiment()
    given = {
        "weights": [weight.tolist() for weight in weights],
        "batches": [[array.tolist() for array in batch] for batch in batches],
        "learning_rate": LEARNING_RATE,
    }
    return dict(zip(BACKENDS, in_processes("train_one_experiment", [(b, {}) for b in BACKENDS], given), strict=True))


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(BACKENDS, 2)))
def test_two_backends_give_the_same_losses(losses, one, other):
    assert len(losses[one]) == 200
    np.testing.assert_allclose(losses[one], losses[other], rtol=RELATIVE)


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_gives_the_losses_of_a_loop_by_hand(losses, name):
    np.testing.assert_allclose(losses[name], losses_by_hand(), rtol=RELATIVE)


def test_the_experiment_learns_something():
    losses = losses_by_hand()
    assert np.mean(losses[-50:]) < 0.7 * np.mean(losses[:10])
