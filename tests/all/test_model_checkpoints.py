"""A Keras model's checkpoint is the same on TensorFlow and JAX."""

import numpy as np
import pytest

CASES = {"tensorflow": ("tensorflow", {}), "jax": ("jax", {})}


@pytest.fixture(scope="module")
def models(in_processes, tmp_path_factory):
    """What each backend says of the model it saved, and of those that it restored: its own and the other's."""
    directory = str(tmp_path_factory.mktemp("checkpoints"))
    saved, restored = (
        dict(zip(CASES, in_processes("share_checkpoints", CASES.values(), given), strict=True))
        for given in ({"task": "save", "directory": directory}, {"task": "restore", "directory": directory})
    )
    return saved, restored


@pytest.mark.parametrize("here", CASES)
@pytest.mark.parametrize("writer", CASES)
def test_weights_are_the_same_bits_and_predictions_the_same_numbers(models, writer, here):
    saved, restored = models
    assert saved["tensorflow"]["digests"].keys() == saved["jax"]["digests"].keys()
    assert saved["tensorflow"]["digests"] != saved["jax"]["digests"]
    assert restored[here][writer]["digests"] == saved[writer]["digests"]
    ours, theirs = (np.array(model["predictions"]) for model in (restored[here][writer], saved[writer]))
    assert ours.shape == (3, 2)
    np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=1e-6)  # single precision, in another order of adding


def test_paths_are_those_of_the_model(models):
    saved, _ = models
    assert sorted(saved["jax"]["digests"]) == [
        *("head.dense.bias", "head.dense.kernel", "head.dense_1.bias", "head.dense_1.kernel"),
        *(f"images.batch_normalization.{name}" for name in ("beta", "gamma", "moving_mean", "moving_variance")),
        *("images.conv2d.bias", "images.conv2d.kernel"),
        *("words.embedding.embeddings",),
        *("words.lstm.cell.bias", "words.lstm.cell.kernel", "words.lstm.cell.recurrent_kernel", "words.scale.factor"),
        *(
            f"zone.{name}_dense.{weight}"
            for name in ("key", "output", "query", "value")
            for weight in ("bias", "kernel")
        ),
    ]
