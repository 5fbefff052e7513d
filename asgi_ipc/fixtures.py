"""Fixtures for pytest, from 4.6 on: ``pytest_plugins = ["asgi_ipc.testing"]`` brings them.

Each test has a prefix of its own, in each process of pytest-xdist as well, and nothing of it is
left afterwards.
"""
import pytest

from asgi_ipc import testing
from asgi_ipc.core import IPCChannelLayer


@pytest.fixture
def ipc_prefix():
    """A prefix of this test alone; its shared memory is removed afterwards."""
    prefix = testing.new_prefix()
    yield prefix
    testing.remove(prefix)


@pytest.fixture
def make_ipc_layer(ipc_prefix):
    """A function that makes a synchronous layer on the test's prefix: ``make(capacity=3)``.

    Each call is one more layer, as another process would have it; all are closed afterwards.
    """
    layers = []

    def make(**options):
        layers.append(IPCChannelLayer(prefix=ipc_prefix, **options))
        return layers[-1]

    yield make
    for layer in layers:
        layer.close()


@pytest.fixture
def ipc_layer(make_ipc_layer):
    """A synchronous layer on the test's prefix."""
    return make_ipc_layer()


@pytest.fixture
def make_async_ipc_layer(ipc_prefix):
    """The same for asynchronous layers, which need Channels 3 or later."""
    from asgi_ipc.aio import IPCChannelLayer

    layers = []

    def make(**options):
        layers.append(IPCChannelLayer(prefix=ipc_prefix, **options))
        return layers[-1]

    yield make
    for layer in layers:
        testing.run_apart(layer.close())


@pytest.fixture
def async_ipc_layer(make_async_ipc_layer):
    """An asynchronous layer on the test's prefix."""
    return make_async_ipc_layer()


@pytest.fixture
def ipc_channel_layers():
    """Channels' ``channel_layers``, with asgi_ipc's of them on prefixes of this test alone."""
    with testing.isolated_layers() as layers:
        yield layers
