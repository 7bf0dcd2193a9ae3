"""Give one backend on the command line: Keras fixes its own once per process."""

import importlib

import numpy as np
import pytest
from contract.conftest import backend  # noqa: F401


def pytest_configure(config):
    """Import mlpug's module of the backend before the tests import Keras."""
    for name in config.getoption("--backend") or ():
        if name in ("tensorflow", "jax"):
            importlib.import_module(f"mlpug.{name}")


class ByHand:
    """Linear regression in double precision: gradient descent with momentum (Sutskever et al., 2013)."""

    def __init__(self, kernel, bias, learning_rate, momentum=0.0):
        self.kernel, self.bias = np.asarray(kernel, float).reshape(-1), float(np.squeeze(bias))
        self.learning_rate, self.momentum = learning_rate, momentum
        self.velocity = np.zeros_like(self.kernel), 0.0

    def loss(self, x, y):
        return ((x @ self.kernel + self.bias - y) ** 2).mean()

    def step(self, x, y):
        """Train on the batch; return its loss before."""
        loss, errors = self.loss(x, y), x @ self.kernel + self.bias - y
        gradients = 2 * x.T @ errors / len(y), 2 * errors.mean()
        self.velocity = tuple(
            self.momentum * velocity - self.learning_rate * gradient
            for velocity, gradient in zip(self.velocity, gradients, strict=True)
        )
        self.kernel, self.bias = self.kernel + self.velocity[0], self.bias + self.velocity[1]
        return loss


@pytest.fixture
def train_by_hand():
    """Makes what a training run is held against: ``train_by_hand(kernel, bias, learning_rate, momentum)``."""
    return ByHand
