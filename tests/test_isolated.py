"""Channels' layers on prefixes of their own, for Django's tests, whichever Channels is here."""
from __future__ import unicode_literals

import gc
import os

import pytest
from djangokit import backend, need_django, synchronous

from asgi_ipc import core, existing, testing

pytest.importorskip("channels")

SMALL = {"message_memory": 1024 * 1024, "group_memory": 1024 * 1024}


@pytest.fixture(autouse=True)
def _django():
    need_django()


@pytest.fixture
def with_layers(prefix):
    """A context manager: the settings have these layers, each on its own part of a prefix."""
    from django.test.utils import override_settings

    parts = set()

    def put(**layers):
        settings = {}
        for alias, setting in layers.items():
            part = prefix + setting.pop("part", "")
            parts.add(part)
            config = dict(SMALL, prefix=part, **setting)
            settings[alias] = {"BACKEND": backend(), "CONFIG": config}
            if synchronous():
                settings[alias]["ROUTING"] = "test_isolated.ROUTING"
            if alias == "tested":
                settings[alias]["TEST_CONFIG"] = dict(config, capacity=7)
        return override_settings(CHANNEL_LAYERS=settings)

    yield put
    for part in parts:
        core.unlink(part)


ROUTING = []


def plain(layer):
    """The layer in what Channels 1 puts around it."""
    return getattr(layer, "channel_layer", layer)


def made_by(manager, alias):
    return plain(manager[alias])


def test_a_prefix_of_its_own_that_is_gone_afterwards(with_layers, prefix):
    from django.conf import settings

    with with_layers(default={"capacity": 5}):
        with testing.isolated_layers() as layers:
            layer = made_by(layers, "default")
            assert layer.prefix == settings.CHANNEL_LAYERS["default"]["CONFIG"]["prefix"]
            assert layer.prefix.startswith(testing.NAME)
            assert layer.capacity == 5
            assert len(existing.find(layer.prefix)) == 2
            assert made_by(layers, "default") is layer
        assert existing.find(layer.prefix) == []
        assert settings.CHANNEL_LAYERS["default"]["CONFIG"]["prefix"] == prefix
        assert existing.find(prefix) == []


def test_two_times_are_two_prefixes(with_layers):
    with with_layers(default={}):
        prefixes = set()
        for _ in range(2):
            with testing.isolated_layers() as layers:
                prefixes.add(made_by(layers, "default").prefix)
        assert len(prefixes) == 2


def test_the_usual_layers_are_back_afterwards(with_layers, prefix):
    from asgi_ipc.testing import _manager

    with with_layers(default={}):
        manager = _manager()
        manager.backends = {}
        before = manager["default"]
        with testing.isolated_layers() as layers:
            assert layers is manager
            assert layers["default"] is not before
        assert manager["default"] is before
        assert plain(before).prefix == prefix
        testing._close(plain(before))
        manager.backends = {}


def test_the_test_config_comes_first_and_options_before_it(with_layers):
    with with_layers(tested={"capacity": 5}):
        with testing.isolated_layers() as layers:
            assert made_by(layers, "tested").capacity == 7
        with testing.isolated_layers(capacity=9) as layers:
            assert made_by(layers, "tested").capacity == 9


def test_an_isolated_config_will_do(prefix):
    from django.test.utils import override_settings

    setting = {"BACKEND": backend(), "CONFIG": testing.isolated_config(capacity=4, **SMALL)}
    if synchronous():
        setting["ROUTING"] = "test_isolated.ROUTING"
    with override_settings(CHANNEL_LAYERS={"default": setting}):
        with testing.isolated_layers() as layers:
            layer = made_by(layers, "default")
            assert layer.capacity == 4
            assert layer.prefix != setting["CONFIG"]["prefix"]


def test_who_shares_a_prefix_goes_on_sharing(with_layers):
    with with_layers(one={}, two={}, other={"part": "x"}):
        with testing.isolated_layers() as layers:
            one, two, other = (made_by(layers, alias).prefix for alias in ("one", "two", "other"))
            assert one == two != other


def test_layers_of_others_stay_as_they_are(prefix):
    from django.conf import settings
    from django.test.utils import override_settings

    foreign = {"BACKEND": "os.path.join", "CONFIG": {"prefix": "theirs"}}
    mine = {"BACKEND": backend(), "CONFIG": {"prefix": prefix}}
    with override_settings(CHANNEL_LAYERS={"default": mine, "foreign": foreign}):
        with testing.isolated_layers():
            assert settings.CHANNEL_LAYERS["foreign"] == foreign
            assert settings.CHANNEL_LAYERS["default"] != mine
    with override_settings(CHANNEL_LAYERS={"foreign": foreign}):
        with pytest.raises(ValueError, match="no layer in CHANNEL_LAYERS"):
            with testing.isolated_layers():
                pytest.fail("it was let in")


def test_an_error_inside_goes_through_and_leaves_nothing(with_layers):
    with with_layers(default={}):
        with pytest.raises(KeyError, match="mine"):
            with testing.isolated_layers() as layers:
                prefix = made_by(layers, "default").prefix
                raise KeyError("mine")
        assert existing.find(prefix) == []


def test_many_times_cost_no_descriptors(with_layers):
    folder = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    counts = []
    with with_layers(default={}):
        for _ in range(6):
            with testing.isolated_layers() as layers:
                assert made_by(layers, "default")
            # A layer is part of cycles, and what other threads have open goes with it.
            gc.collect()
            counts.append(len(os.listdir(folder)))
    assert counts[1] == counts[-1]
