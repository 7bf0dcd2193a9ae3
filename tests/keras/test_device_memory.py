"""The memory of GPUs, as TensorFlow and JAX tell it."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from contract.backends.base import make_batches

import mlpug.callbacks

CURE = {"tensorflow": "set_memory_growth", "jax": "XLA_PYTHON_CLIENT_PREALLOCATE=false"}
COLUMNS = {"tensorflow": {"used", "largest_used"}, "jax": {"free", "used", "largest_used", "total"}}

MAKE = """
import mlpug.{backend} as mlp
try:
    mlp.callbacks.LogCudaMemory()
except mlp.errors.ConfigurationError as error:
    print(error)
"""


@pytest.fixture
def mlp(backend):
    return backend.mlp


def has_gpu():
    """As the backend itself says, without a word of mlpug."""
    if keras.config.backend() == "jax":
        import jax

        return jax.default_backend() == "gpu"
    import tensorflow

    return bool(tensorflow.config.list_physical_devices("GPU"))


def test_every_callback_of_the_core_is_there(mlp):
    assert set(mlp.callbacks.__all__) == {*mlpug.callbacks.__all__, "EmptyCudaCache", "LogCudaMemory", "as_native"}
    for name in mlpug.callbacks.__all__:
        assert getattr(mlp.callbacks, name) is getattr(mlpug.callbacks, name)


def test_where_there_is_no_gpu_making_one_says_so():
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, "-c", MAKE.format(backend=keras.config.backend())]
    made = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=280)
    assert made.stdout.startswith("LogCudaMemory needs a GPU, and ")
    assert "Leave it out on this machine" in made.stdout


@pytest.mark.parametrize("arguments", [{}, {"batch_period": 10}])
def test_a_cache_that_can_be_emptied_is_pytorchs_alone(mlp, arguments):
    with pytest.raises(mlp.errors.ConfigurationError, match=r"has none that can be emptied\. Leave it out") as raised:
        mlp.callbacks.EmptyCudaCache(**arguments)
    assert CURE[keras.config.backend()] in str(raised.value)


def test_on_a_gpu_the_numbers_are_in_the_logs(backend, mlp):
    if not has_gpu():
        pytest.skip("needs a GPU")
    trainer = backend.trainer()
    trainer.set_training_model(backend.training_model())
    manager = mlp.trainers.TrainingManager(
        trainer, make_batches(), num_epochs=1, callbacks=[mlp.callbacks.LogCudaMemory()]
    )
    manager.start_training()
    shown = manager.logs.at("training_params.memory.cuda:0").snapshot()
    assert set(shown) == COLUMNS[keras.config.backend()]
    assert 0 < shown["used"] <= shown["largest_used"] <= shown.get("total", np.inf)
