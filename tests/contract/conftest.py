"""The contract: what every adapter promises. A new backend adds a file to ``backends`` and a name here."""

import importlib

import pytest

_BACKENDS = {
    "fake": ("contract.backends.fake", "FakeBackend"),
    "lightning": ("contract.backends.lightning", "LightningBackend"),
    "tensorflow": ("contract.backends.tensorflow_backend", "TensorFlowBackend"),
    "tensorflow-eager": ("contract.backends.tensorflow_backend", "EagerTensorFlowBackend"),
    "jax": ("contract.backends.jax_backend", "JaxBackend"),
    "jax-eager": ("contract.backends.jax_backend", "EagerJaxBackend"),
}


@pytest.fixture
def backend(request):
    """What the tests need of a backend: see ``backends/base.py``. A missing package is an error, not a skip."""
    module, name = _BACKENDS[request.param]
    return getattr(importlib.import_module(module), name)()
