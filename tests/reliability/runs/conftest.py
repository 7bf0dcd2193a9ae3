"""Which host the runs are on is said on the command line, once for each process of pytest."""

import pytest


@pytest.fixture
def backend(request):
    """The host's name."""
    return request.param
