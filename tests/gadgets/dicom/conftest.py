import gc

import pytest


@pytest.fixture(autouse=True)
def _collected(request):
    """Dropped sockets are collected while the filter of the module that drops them holds."""
    yield
    if request.node.get_closest_marker("filterwarnings"):
        gc.collect()
