"""What Keras's tests import of the ``conftest`` of its repository, which isn't installed."""

import keras
import pytest


def skip_if_backend(given_backend, reason):
    return pytest.mark.skipif(keras.config.backend() == given_backend, reason=reason)
