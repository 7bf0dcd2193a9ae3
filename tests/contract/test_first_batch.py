"""Numbers of another type than the model's, in the first batch, are named in a sentence; other errors stay theirs."""

import traceback

import numpy as np
import pytest
from contract.backends.base import make_batches

from mlpug.errors import DatasetError
from mlpug.trainers import TrainingManager

TYPES_MEET = "mat1 and mat2 must have the same dtype, but got Double and Float"


def train(backend, batches, returns):
    trainer = backend.trainer()
    trainer.set_training_model(backend.training_model(returns=returns))
    TrainingManager(trainer, batches).start_training()


def raising(error):
    def returns(loss, num_samples, predictions):
        raise error

    return returns


def test_what_the_host_says_of_types_is_told_with_those_that_there_are(backend):
    raised = RuntimeError(f"{TYPES_MEET}\nand more")
    batches = [(x, y.astype("float16")) for x, y in make_batches()]
    with pytest.raises(DatasetError) as caught:
        train(backend, batches, raising(raised))
    weights = {str(weight.dtype) for weight in backend.weights().values()}
    assert str(caught.value).startswith(
        f"The model can't compute the first batch: {TYPES_MEET}. The batch has float16 and float64, the weights are "
        f"{weights.pop()}. Give it data of the type"
    )
    assert caught.value.__cause__ is raised
    assert len("".join(traceback.format_exception(caught.value)).split("\n")) < 40


@pytest.mark.parametrize("error", [RuntimeError("my own"), ValueError("the same dtype")])
def test_another_error_arrives_as_it_was_raised(backend, error):
    with pytest.raises(type(error)) as caught:
        train(backend, make_batches(), raising(error))
    assert caught.value is error


def test_types_that_fit_arent_blamed(backend):
    (dtype,) = {weight.dtype for weight in backend.weights().values()}
    batches = [(x.astype(dtype), np.asarray(y, dtype)) for x, y in make_batches()]
    error = RuntimeError(TYPES_MEET)
    with pytest.raises(RuntimeError) as caught:
        train(backend, batches, raising(error))
    assert caught.value is error
