"""A compiled model on torch's DataLoader is what its own ``fit`` makes of it, also where a run is resumed."""

import pytest

BACKENDS = ["tensorflow", "jax"]
BY_GENERATOR = "shuffled by its generator"
CASES = [
    *[(kind, "sequential") for kind in ("in order", "shuffled", "by a worker")],
    *[(BY_GENERATOR, name) for name in ("sequential", "unbuilt", "own train_step")],
]
ENDS = ["of full batches", "of unknown length"]  # how fit learns of the end of these


@pytest.fixture(scope="module")
def differences(in_processes):
    """Of each backend: what isn't the same bits, in the order of what is asked for."""

    def of(**request):
        found = in_processes(
            "train_on_loaders", [(name, {}) for name in BACKENDS], {"fit": [], "resumed": []} | request
        )
        return dict(zip(BACKENDS, found, strict=True))

    return of


# Few at a time: each of them compiles a model of its own, twice.
@pytest.mark.parametrize(
    "cases",
    [CASES[:3], CASES[3:], [(kind, "sequential") for kind in ENDS]],
    ids=["kinds of loader", "kinds of model", "kinds of end"],
)
def test_it_trains_as_fit_does(differences, cases):
    for name, found in differences(fit=cases).items():
        assert dict(zip(cases, found["fit"], strict=True)) == {case: [] for case in cases}, name


@pytest.mark.parametrize("kind", [BY_GENERATOR, "shuffled", *ENDS])
def test_it_goes_on_as_if_it_had_never_stopped(differences, kind):
    assert differences(resumed=[kind]) == {name: {"fit": [], "resumed": [[]]} for name in BACKENDS}
