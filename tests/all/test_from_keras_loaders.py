"""A compiled model on torch's DataLoader is what its own ``fit`` makes of it, also where a run is resumed."""

import pytest

pytestmark = pytest.mark.timeout(1000)  # every run compiles models of its own

BACKENDS = ["tensorflow", "jax"]
BY_GENERATOR = "shuffled by its generator"
ENDS = ["of full batches", "of unknown length"]  # how fit learns of the end of these
CASES = [
    *[(kind, "sequential") for kind in ("in order", "shuffled", "by a worker", *ENDS)],
    *[(BY_GENERATOR, name) for name in ("sequential", "unbuilt", "own train_step")],
]
RESUMED = [BY_GENERATOR, "shuffled", *ENDS]


@pytest.fixture(scope="module")
def differences(in_processes):
    """Of each backend: what isn't the same bits, in the order of what is asked for."""
    found = in_processes(
        "train_on_loaders", [(name, {}) for name in BACKENDS], {"fit": CASES, "resumed": RESUMED}, seconds=900
    )
    return dict(zip(BACKENDS, found, strict=True))


@pytest.mark.parametrize("name", BACKENDS)
def test_it_trains_as_fit_does(differences, name):
    assert dict(zip(CASES, differences[name]["fit"], strict=True)) == {case: [] for case in CASES}


@pytest.mark.parametrize("name", BACKENDS)
def test_it_goes_on_as_if_it_had_never_stopped(differences, name):
    assert dict(zip(RESUMED, differences[name]["resumed"], strict=True)) == {kind: [] for kind in RESUMED}
