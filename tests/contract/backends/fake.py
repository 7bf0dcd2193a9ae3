"""FakeAdapter in the contract suite."""

import contextlib

import numpy as np
from contract.backends.base import NUM_FEATURES

from mlpug.testing import FakeNativeCallback, GradientDescent, LinearRegression, fake_trainer

_LEARNING_RATE = 0.05


class FakeBackend:
    is_bit_equal = True
    rounding = 1e-12
    calls_python_at_each_batch = True
    random_generator = np.random.default_rng, lambda own: own.normal()

    def __init__(self):
        self.model = LinearRegression(NUM_FEATURES)
        self.optimizer = GradientDescent(self.model.parameters, _LEARNING_RATE)

    def trainer(self, **arguments):
        return fake_trainer(optimizers=self.optimizer, model_components=self.model, **arguments)

    def training_model(self, spy=None, returns=None):
        return _TrainModel(self.model, spy, returns)

    def counting_regression(self, **arguments):
        model = _CountingRegression()
        trainer = fake_trainer(GradientDescent(model.parameters, 0.05), model, **arguments)
        return trainer, model, lambda: np.append(model.parameters["weight"], model.parameters["bias"])

    def two_regressions(self, returns, **arguments):
        model = _TwoRegressions(returns)
        first, second = model.parts
        optimizers = {
            "first": GradientDescent({f"first.{name}": value for name, value in first.parameters.items()}, 0.05),
            "second": GradientDescent({f"second.{name}": value for name, value in second.parameters.items()}, 0.1),
        }
        trainer = fake_trainer(optimizers, {"first": first, "second": second}, **arguments)
        return trainer, model, lambda: [np.append(p.parameters["weight"], p.parameters["bias"]) for p in model.parts]

    def without_parameters(self):
        fake_trainer(optimizers=GradientDescent({}), model_components=self.model)

    def weights(self):
        return {name: parameter.copy() for name, parameter in self.model.parameters.items()}

    def train_by_hand(self, batches, num_epochs):
        weight, bias, losses = np.zeros(NUM_FEATURES), np.zeros(()), []
        for _ in range(num_epochs):
            for x, y in batches:
                errors = x @ weight + bias - y
                losses.append(float(np.mean(errors**2)))
                weight_gradient, bias_gradient = 2 * (x.T @ errors) / len(y), 2 * np.mean(errors)
                weight = weight - _LEARNING_RATE * weight_gradient
                bias = bias - _LEARNING_RATE * bias_gradient
        return {"weight": weight, "bias": bias}, losses

    def without_dropout(self):
        """There is none."""

    def square_root(self, loss):
        with np.errstate(divide="ignore", invalid="ignore"):
            factor = 0.5 / np.sqrt(loss)
            self.model.gradients = {name: factor * gradient for name, gradient in self.model.gradients.items()}
        return float(np.sqrt(loss))

    def native_callback(self, hear):
        return FakeNativeCallback(hear)

    def gradients_are_on(self):
        return False  # numpy has none: LinearRegression computes its own

    def transfers_to_read_losses(self, count):
        return 0  # everything is on the host already: there is nothing to transfer, and nothing that could be counted

    def transfers(self):
        return contextlib.nullcontext([])


class _CountingRegression(LinearRegression):
    def __init__(self):
        super().__init__(NUM_FEATURES)

    def __call__(self, batch_data, evaluate_settings, inference_mode=None):
        x, y, counts = batch_data
        predictions = x @ self.parameters["weight"] + self.parameters["bias"]
        errors, total = predictions - y, counts.sum()
        with np.errstate(divide="ignore", invalid="ignore"):
            self.gradients = {"weight": 2 * (x.T @ (counts * errors)) / total, "bias": 2 * (counts @ errors) / total}
            loss = (counts @ errors**2) / total
        return loss, total, {"predictions": predictions, "mean": (counts @ predictions) / max(total, 1)}


class _TwoRegressions:
    def __init__(self, returns):
        self.returns, self.parts = returns, (LinearRegression(NUM_FEATURES), LinearRegression(NUM_FEATURES))
        self.gradients = {}

    def __call__(self, batch_data, evaluate_settings, inference_mode=None):
        x, y = batch_data
        first, second = self.parts
        losses = [part((x, target), None, inference_mode)[0] for part, target in ((first, y), (second, -2 * y))]
        names = ("first", "second")
        self.gradients = {
            f"{name}.{parameter}": gradient
            for name, part in zip(names, self.parts, strict=True)
            for parameter, gradient in part.gradients.items()
        }
        return self.returns(*losses), len(y)


class _TrainModel:
    def __init__(self, model, spy, returns):
        self.model, self.spy, self.returns = model, spy, returns

    @property
    def gradients(self):
        return self.model.gradients

    def __call__(self, batch_data, evaluate_settings, inference_mode=None):
        if self.spy is not None:
            self.spy(batch_data, evaluate_settings, inference_mode)
        loss, num_samples, predictions = self.model(_arrays(batch_data), evaluate_settings, inference_mode)
        if evaluate_settings is not None:
            loss *= evaluate_settings["scale"]
            scaled = {name: evaluate_settings["scale"] * gradient for name, gradient in self.model.gradients.items()}
            self.model.gradients = scaled
        results = loss, num_samples, predictions
        return results if self.returns is None else self.returns(*results)


def _arrays(batch_data):
    """x and y from any nesting that the tests use."""
    if isinstance(batch_data, dict):
        return batch_data["x"], batch_data["nested"]["y"]
    if hasattr(batch_data, "x"):
        return batch_data.x, batch_data.y
    return batch_data
