"""Where these tests run: on the GPU, which has to be there.

    pytest tests/gpu/test_lightning.py
    KERAS_BACKEND=jax pytest tests/gpu/test_keras_jax.py

tox and CI leave them out. The contract suite runs on a GPU too, on JAX; in full precision, without which chunks of a
batch differ from the whole by more than rounding in float32:

    KERAS_BACKEND=jax JAX_DEFAULT_MATMUL_PRECISION=highest pytest tests/contract --backend jax
"""

import os

import pytest

# "cpu" runs them where there is no GPU, to try the tests themselves.
ACCELERATOR = os.environ.get("MLPUG_TEST_ACCELERATOR", "gpu")

of_a_gpu = pytest.mark.skipif(ACCELERATOR == "cpu", reason="a processor has no memory of its own to look at")


def check_accelerator(library, has_gpu):
    """End the collection of a file whose library doesn't see the GPU."""
    if ACCELERATOR not in ("gpu", "cpu"):
        pytest.fail(f'MLPUG_TEST_ACCELERATOR must be "gpu" or "cpu", not {ACCELERATOR!r}.', pytrace=False)
    if ACCELERATOR == "gpu" and not has_gpu:
        pytest.fail(
            f"These tests need a CUDA GPU, and {library} sees none here. Run them on a machine with one and a build of "
            f"{library} for it; MLPUG_TEST_ACCELERATOR=cpu tries the tests themselves on the processor.",
            pytrace=False,
        )
