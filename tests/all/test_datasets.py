"""Any kind of dataset, whatever library it is of, trains on any backend."""

import numpy as np
import pytest

BACKENDS = ["pytorch", "tensorflow", "jax"]
KINDS = ["tf.data", "DataLoader", "PyDataset", "list", "generator", "endless"]
NESTINGS = ["tuple", "dict", "nested"]
LEARNING_RATE, WEIGHT, BIAS = 0.05, np.array([0.5, -0.25, 1.0]), 0.125  # as in scripts/linear.py


def make_samples():
    random = np.random.default_rng(0)
    x = random.normal(size=(29, 3))
    return x, x @ [1.0, 2.0, 3.0] + random.normal(size=29), random.uniform(0.5, 1.5, size=29)


def losses_by_hand(num_epochs):
    samples, weight, bias, losses = make_samples(), WEIGHT, BIAS, []
    for _ in range(num_epochs):
        for start in range(0, 29, 8):
            x, y, importance = (array[start : start + 8] for array in samples)
            errors = x @ weight + bias - y
            losses.append((importance * errors**2).mean())
            weight = weight - LEARNING_RATE * 2 * x.T @ (importance * errors) / len(y)
            bias = bias - LEARNING_RATE * 2 * (importance * errors).mean()
    return losses


@pytest.fixture(scope="module")
def losses(in_processes):
    """Of each backend: the losses of the batches, by kind of dataset and nesting."""
    # Keras is imported for its dataset only where it doesn't train; there it may run on anything.
    cases = [(backend, {"KERAS_BACKEND": "torch"} if backend == "pytorch" else {}) for backend in BACKENDS]
    printed = in_processes("train_on_datasets", cases, [array.tolist() for array in make_samples()])
    return dict(zip(BACKENDS, printed, strict=True))


@pytest.mark.parametrize("nesting", NESTINGS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", BACKENDS)
def test_any_dataset_trains_on_any_backend(losses, name, kind, nesting):
    trained = losses[name][f"{kind} {nesting}"]
    assert not isinstance(trained, str), trained
    expected = losses_by_hand(1 if kind == "generator" else 2)
    # single precision, epsilon 1.2e-7, over eight steps of sums over 8 values
    np.testing.assert_allclose(trained, expected, rtol=1e-5)
    same_batches = losses[name]["list tuple"][: len(trained)]
    np.testing.assert_allclose(trained, same_batches, rtol=1e-6)  # but for the order of a sum
