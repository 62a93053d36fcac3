import gc

import pytest


@pytest.fixture(autouse=True)
def _collected():
    """Dropped sockets are collected while the filter of the module that dropped them holds."""
    yield
    gc.collect()
