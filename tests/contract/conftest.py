"""The contract: what every adapter promises. A new backend adds a file to ``backends`` and a name here."""

import importlib

import pytest

_BACKENDS = {
    "fake": ("contract.backends.fake", "FakeBackend"),
    "lightning": ("contract.backends.lightning", "LightningBackend"),
}


@pytest.fixture
def backend(request):
    """What the tests need of a backend: see ``backends/base.py``. A missing package is an error, not a skip."""
    module, name = _BACKENDS[request.param]
    return getattr(importlib.import_module(module), name)()
