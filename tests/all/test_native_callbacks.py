"""A callback of another library than the host's is refused in words that say which library it is of."""

import pytest

CASES = {
    "pytorch": ("pytorch", {"KERAS_BACKEND": "jax"}),
    "tensorflow": ("tensorflow", {}),
    "jax": ("jax", {}),
}
OF_KERAS = ("keras", "keras, the user's own")


@pytest.fixture(scope="module")
def said(in_processes):
    return dict(zip(CASES, in_processes("refuse_native_callbacks", CASES.values(), None), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_it_is_said_which_library_a_callback_is_of(said, case):
    taken, refused, library, backend = (
        (["lightning"], OF_KERAS, "Keras", "pytorch")
        if case == "pytorch"
        else (OF_KERAS, ["lightning"], "PyTorch Lightning", "keras")
    )
    assert all(said[case][name] is None for name in taken)
    for name in refused:
        assert f"it is a callback of {library}, and this trainer is mlpug's for {backend}. Take" in said[case][name]
    assert "derive it from mlp.callbacks.Callback" in said[case]["neither"]
