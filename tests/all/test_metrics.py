"""Metrics of one library on the backend of another."""

import numpy as np
import pytest

CASES = {
    "tensorflow": ("tensorflow", {}),
    "jax": ("jax", {}),
    "pytorch beside Keras on TensorFlow": ("pytorch", {"KERAS_BACKEND": "tensorflow"}),
    "pytorch beside Keras on JAX": ("pytorch", {"KERAS_BACKEND": "jax"}),
}


def make_batches():
    random = np.random.default_rng(0)
    return [(random.normal(size=(n, 3)), random.integers(0, 3, size=n)) for n in (8, 8, 5)]


@pytest.fixture(scope="module")
def values(in_processes):
    given = [[logits.tolist(), labels.tolist()] for logits, labels in make_batches()]
    return dict(zip(CASES, in_processes("compute_metrics", CASES.values(), given), strict=True))


@pytest.mark.parametrize("metric", ["torchmetrics", "keras", "joined"])
@pytest.mark.parametrize("case", CASES)
def test_a_metric_of_any_library_equals_a_count_by_hand(values, case, metric):
    backend, variables = CASES[case]
    hits = sum(int((logits.argmax(axis=1) == labels).sum()) for logits, labels in make_batches())
    assert 0 < hits < 21
    assert values[case]["keras runs on"] == variables.get("KERAS_BACKEND", backend)
    assert values[case][metric] == pytest.approx(hits / 21, rel=1e-6)  # counted in single precision, epsilon 1.2e-7
