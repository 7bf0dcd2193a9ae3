"""The numpy backend that the core is tested with has to be right itself."""

import numpy as np
import pytest

from mlpug.adapter import Events, StepOutput
from mlpug.testing import FakeAdapter, GradientDescent, LinearRegression
from mlpug.trainers.run_log import RunLog


@pytest.fixture
def model():
    """A model whose weights are not zero."""
    model = LinearRegression(num_features=2)
    model.parameters["weight"][:] = [0.5, -1.0]
    model.parameters["bias"][...] = 0.25
    return model


def test_the_loss_is_the_mean_squared_error(model):
    x, y = np.array([[1.0, 2.0], [3.0, 0.5]]), np.array([1.0, -1.0])
    loss, num_samples, predictions = model((x, y), None)

    # by hand: 0.5 - 2 + 0.25 = -1.25, and 1.5 - 0.5 + 0.25 = 1.25
    assert predictions.tolist() == [-1.25, 1.25]
    assert (loss, num_samples) == ((2.25**2 + 2.25**2) / 2, 2)


@pytest.mark.parametrize(("name", "index"), [("weight", 0), ("weight", 1), ("bias", ())])
def test_the_gradients_are_those_of_the_loss(model, regression_batches, name, index):
    (batch,) = regression_batches(6)
    model(batch, None, inference_mode=False)
    gradient = np.asarray(model.gradients[name])[index]

    def loss_at(shift):
        model.parameters[name][index] += shift
        loss, _, _ = model(batch, None, inference_mode=True)
        model.parameters[name][index] -= shift
        return loss

    # The loss is quadratic, so its central difference is the derivative but for rounding.
    assert (loss_at(0.5) - loss_at(-0.5)) / 1.0 == pytest.approx(gradient, rel=1e-12)


def test_inference_leaves_the_gradients_alone(model, regression_batches):
    (batch,) = regression_batches(3)
    model(batch, None, inference_mode=True)

    assert model.gradients == {}


def test_gradient_descent_moves_the_models_own_arrays(model):
    weight = model.parameters["weight"]
    GradientDescent(model.parameters, learning_rate=0.5).step({"weight": np.array([1.0, 2.0]), "bias": 0.5})

    assert model.parameters["weight"] is weight
    assert weight.tolist() == [0.0, -2.0]
    assert model.parameters["bias"].tolist() == 0.0


def test_training_finds_the_line_that_the_data_lies_on(make_trainer, make_manager):
    trainer = make_trainer(learning_rate=0.1)
    x = np.random.default_rng(0).normal(size=(32, 2))
    make_manager([(x, x @ [2.0, -3.0] + 0.5)], trainer=trainer, num_epochs=500).start_training()

    assert trainer.training_model.parameters["weight"] == pytest.approx([2.0, -3.0], abs=1e-6)
    assert trainer.training_model.parameters["bias"] == pytest.approx(0.5, abs=1e-6)


def test_scalars_come_to_the_host_as_numbers_and_arrays_as_they_are():
    array = np.zeros(2)
    output = FakeAdapter({}).to_host(StepOutput(np.float32(0.5), np.array(3), {"a": array, "b": "text", "c": None}))

    assert (output.loss, output.num_samples) == (0.5, 3)
    assert (type(output.loss), type(output.num_samples)) == (float, int)
    assert output.auxiliary_results == {"a": array, "b": "text", "c": None}


def test_the_core_listens_to_every_event():
    assert isinstance(RunLog(1, dict, str), Events)
