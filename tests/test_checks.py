"""Django's system checks: what they find, what they say to do, and that nothing upsets them."""
from __future__ import unicode_literals

import os
import re
import subprocess
import sys

import pytest
from djangokit import backend, need_django, synchronous

from asgi_ipc import existing
from asgi_ipc.core import IPCChannelLayer

pytest.importorskip("channels")

MEBIBYTE = 1024 * 1024
ASYNCHRONOUS = "asgi_ipc.aio.IPCChannelLayer"
SMALL = {"message_memory": MEBIBYTE, "group_memory": MEBIBYTE}


class SyncChild(IPCChannelLayer):
    """A site's own layer, with an option of its own."""

    def __init__(self, shout=False, **options):
        super(SyncChild, self).__init__(**options)


class Foreign(object):
    """Nothing of ours."""


@pytest.fixture(autouse=True)
def _django(monkeypatch):
    need_django()
    monkeypatch.delenv(str("WEB_CONCURRENCY"), raising=False)


@pytest.fixture
def room(monkeypatch):
    """A function that sets how much shared memory there is; plenty to begin with."""

    def set_room(total, free):
        answer = existing.Room("/dev/shm", total, free)
        monkeypatch.setattr(existing, "room", lambda: answer)

    set_room(10**10, 10**10)
    return set_room


def check(layers, **settings):
    from django.test.utils import override_settings

    from asgi_ipc.checks import check_channel_layers

    with override_settings(CHANNEL_LAYERS=layers, **settings):
        found = check_channel_layers(app_configs=None, databases=None)
    for message in found:
        assert len(message.hint) > 20
        assert message.id.startswith("asgi_ipc.")
        assert str(message)
    return found


def ids(layers, **settings):
    return [message.id.split(".")[1] for message in check(layers, **settings)]


def layers(prefix, path=None, **config):
    return {"default": {"BACKEND": path or backend(), "CONFIG": dict(config, prefix=prefix)}}


def test_a_sound_site(prefix, room):
    assert ids(layers(prefix), DEBUG=True) == []
    assert ids(layers(prefix), DEBUG=False) == []
    assert existing.find(prefix) == []


def test_no_channel_layers(room):
    assert ids({}) == []


def test_layers_of_others_are_passed_over(room):
    other = {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": {"anything": 1}}
    assert ids({"default": other, "mine": {"BACKEND": "test_checks.Foreign"}}) == []
    assert ids({"default": {"BACKEND": "no.such.module"}}) == []


def test_the_face_that_channels_does_not_take(prefix, room):
    wrong = ASYNCHRONOUS if synchronous() else "asgi_ipc.IPCChannelLayer"
    (found,) = check(layers(prefix, wrong))
    assert found.id == ("asgi_ipc.W002" if synchronous() else "asgi_ipc.W001")
    assert backend() in found.hint
    if not synchronous():
        assert ids(layers(prefix, "asgi_ipc.core.IPCChannelLayer")) == ["W001"]
        assert ids(layers(prefix, "test_checks.SyncChild", shout=True)) == ["W001"]


@pytest.mark.parametrize(
    "version, expected", [("1.1.8", "W002"), ("2.4.0", "W001"), ("4.3", "W001")]
)
def test_every_release_of_channels(prefix, room, monkeypatch, version, expected):
    import channels

    monkeypatch.setattr(channels, "__version__", version)
    right, wrong = "asgi_ipc.IPCChannelLayer", ASYNCHRONOUS
    if expected == "W001":
        right, wrong = wrong, right
    assert ids(layers(prefix, right)) == []
    assert ids(layers(prefix, wrong)) == [expected]


@pytest.mark.parametrize("version", ["main", None, 4])
def test_a_channels_of_no_release_is_not_judged(prefix, room, monkeypatch, version):
    import channels

    monkeypatch.setattr(channels, "__version__", version)
    assert ids(layers(prefix, "asgi_ipc.IPCChannelLayer")) == []


def test_shared_memory_that_is_too_small(prefix, room):
    room(64 * MEBIBYTE, 64 * MEBIBYTE)
    (found,) = check(layers(prefix))
    assert found.id == "asgi_ipc.W003"
    assert str(64 * MEBIBYTE) in found.msg
    assert str(120 * MEBIBYTE) in found.msg
    assert "--shm-size" in found.hint
    assert ids(layers(prefix, message_memory=40 * MEBIBYTE)) == []


def test_all_layers_count_together_and_each_prefix_once(prefix, room):
    room(200 * MEBIBYTE, 200 * MEBIBYTE)
    two = layers(prefix)
    two["same"] = two["default"]
    assert ids(two) == []
    two["other"] = layers(prefix + "x")["default"]
    assert ids(two) == ["W003"]


def test_shared_memory_that_others_have_filled(prefix, room):
    room(10**9, 2 * MEBIBYTE - 65536)
    assert ids(layers(prefix, **SMALL)) == ["W004"]
    with IPCChannelLayer(prefix=prefix, **SMALL) as layer:
        layer.send("jobs", {})
        held = sum(found.memory for found in existing.find(prefix))
        room(10**9, 2 * MEBIBYTE - held)
        assert ids(layers(prefix, **SMALL)) == []
        room(10**9, 2 * MEBIBYTE - held - 4096)
        assert ids(layers(prefix, **SMALL)) == ["W004"]


def test_where_the_system_does_not_tell(prefix, monkeypatch):
    monkeypatch.setattr(existing, "room", lambda: None)
    assert ids(layers(prefix)) == []


def test_the_real_room_is_looked_at(prefix):
    real = existing.room()
    if real is None:
        pytest.skip("the system does not tell here")
    assert 0 <= real.free <= real.total
    assert ids(layers(prefix, message_memory=real.total + 4096)) == ["W003"]


def test_the_default_prefix_is_for_development(room, monkeypatch):
    monkeypatch.setattr(existing, "find", lambda _: [])
    bare = {"default": {"BACKEND": backend()}}
    assert ids(bare, DEBUG=True) == []
    (found,) = check(bare, DEBUG=False)
    assert found.id == "asgi_ipc.W005"
    assert "'asgi'" in found.msg


@pytest.mark.parametrize(
    "workers, config, expected",
    [
        ("3", {}, []),
        ("4", {}, ["W006"]),
        ("4", {"capacity": 100}, []),
        ("4", {"channel_capacity": {"http.*": 5}}, []),
        ("64", {"capacity": 100, "message_memory": 200 * MEBIBYTE}, []),
        ("64", {"capacity": 1000}, ["W007"]),
        ("64", {"message_memory": 50 * MEBIBYTE}, ["W006", "W007"]),
        ("many", {}, []),
        ("-4", {}, []),
        ("", {}, []),
    ],
)
def test_many_workers(prefix, room, monkeypatch, workers, config, expected):
    monkeypatch.setenv(str("WEB_CONCURRENCY"), str(workers))
    assert ids(layers(prefix, **config), DEBUG=False) == expected
    assert ids(layers(prefix, **config), DEBUG=True) == []


def test_a_segment_of_another_size(prefix, room):
    with IPCChannelLayer(prefix=prefix, **SMALL):
        assert ids(layers(prefix, **SMALL)) == []
        found = check(layers(prefix, message_memory=MEBIBYTE + 1, group_memory=2 * MEBIBYTE))
        assert [message.id for message in found] == ["asgi_ipc.W008"] * 2
        assert "message_memory={0}".format(MEBIBYTE + 1) in found[0].msg
        assert "group_memory={0}".format(2 * MEBIBYTE) in found[1].msg
        assert "asgi-ipc rm " + prefix in found[0].hint


def segment_of(owner, group, mode):
    return lambda prefix: [
        existing.Found("/" + prefix + "-groups", 20 * MEBIBYTE, 4096, owner, group, mode)
    ]


def test_a_segment_of_another_user(prefix, room, monkeypatch):
    monkeypatch.setattr(os, "getegid", lambda: 1000)
    monkeypatch.setattr(os, "getgroups", lambda: [33])
    for user, owner, group, there, asked, expected in (
        (1000, 1000, 7, 0o600, 0o600, []),
        (1000, 33, 33, 0o600, 0o600, ["W009"]),
        (1000, 33, 33, 0o600, 0o660, ["W009"]),
        (1000, 33, 33, 0o660, 0o600, ["W009"]),
        (1000, 33, 33, 0o660, 0o660, []),
        (1000, 33, 7, 0o660, 0o660, ["W009"]),
        (1000, 33, 7, 0o666, 0o666, []),
        # Who may open anything still refuses what mode does not admit.
        (0, 33, 33, 0o600, 0o600, ["W009"]),
        (0, 33, 33, 0o600, 0o660, []),
    ):
        monkeypatch.setattr(os, "geteuid", lambda user=user: user)
        monkeypatch.setattr(existing, "find", segment_of(owner, group, there))
        assert ids(layers(prefix, mode=asked)) == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_real_segment_of_another_user(prefix, room):
    IPCChannelLayer(prefix=prefix, **SMALL).close()
    for name in ("-messages", "-groups"):
        os.chown("/dev/shm/" + prefix + name, 12345, 12345)
    found = check(layers(prefix, **SMALL))
    assert [message.id for message in found] == ["asgi_ipc.W009"] * 2
    assert "12345" in found[0].msg


@pytest.mark.parametrize("wrong", [[], "text", 7, None, ("default",)])
def test_settings_of_the_wrong_kind(prefix, room, wrong):
    assert ids(wrong) == ["E001"]
    assert ids({"default": wrong}) == ["E001"]
    assert ids({"default": {"BACKEND": backend(), "CONFIG": wrong}}) == ["E001"]
    assert ids({"default": wrong, "other": layers(prefix)["default"], 7: wrong}) == ["E001"] * 2


@pytest.mark.parametrize("wrong", [{}, {"BACKEND": None}, {"BACKEND": 7}, {"BACKEND": ""}])
def test_no_backend(room, wrong):
    assert ids({"default": wrong}) == ["E002"]


@pytest.mark.parametrize("name", ["asgi_ipc.NoSuchLayer", "asgi_ipc.no.Module", "asgi_ipc"])
def test_a_backend_of_ours_that_is_none(room, name):
    (found,) = check({"default": {"BACKEND": name}})
    assert found.id == "asgi_ipc.E003"
    assert ASYNCHRONOUS in found.hint


@pytest.mark.parametrize(
    "config, said",
    [
        ({"capacity": 0}, "capacity=0"),
        ({"hosts": ["redis"]}, "hosts is an option of channels_redis"),
        ({"capasity": 5}, "capasity"),
        ({"prefix": "a/b"}, "without slash"),
        ({"prefix": 7}, "prefix=7"),
        ({"mode": "0600"}, "mode='0600'"),
        ({7: 8}, "7"),
        ({"channel_capacity": "all"}, "channel_capacity"),
        ({"expiry": None}, "expiry=None"),
    ],
)
def test_wrong_options(room, config, said):
    (found,) = check({"default": {"BACKEND": backend(), "CONFIG": config}}, DEBUG=True)
    assert found.id == "asgi_ipc.E004"
    assert said in found.msg.replace("u'", "'")
    assert found.level >= 40


def test_names_in_another_script(prefix, room):
    assert ids({"\u0434": {"BACKEND": "asgi_ipc.\u0434"}}) == ["E003"]
    assert ids({"\u0434": {"BACKEND": backend(), "CONFIG": {"\u0434": 1}}}) == ["E004"]
    assert ids({"\u0434": {"BACKEND": backend(), "CONFIG": {"prefix": "\u0434"}}}) == ["E004"]
    assert ids({"\u0434": {"BACKEND": "\u0434.\u0434"}}) == []


def test_a_layer_derived_from_ours_has_options_of_its_own(prefix, room, monkeypatch):
    import channels

    monkeypatch.setattr(channels, "__version__", "1.1.8")
    assert ids(layers(prefix, "test_checks.SyncChild", shout=True)) == []
    assert ids(layers(prefix, "test_checks.SyncChild", capacity=-1)) == ["E004"]


def test_every_finding_is_told_of():
    from asgi_ipc import checks

    with open(checks.__file__.replace(".pyc", ".py")) as stream:
        text = stream.read()
    told = set(re.findall(r"\b[EW]00\d\b", checks.__doc__))
    given = {
        kind + "00" + number
        for name, kind in (("_error", "E"), ("_warning", "W"))
        for number in re.findall(name + r"\(\s*(\d),", text)
    }
    assert told == given == {"E00%d" % n for n in range(1, 5)} | {"W00%d" % n for n in range(1, 10)}


def run_check(folder, app, **config):
    """``manage.py check`` of a project with the app; its status and what it says."""
    folder.join("site_settings.py").write(
        "SECRET_KEY = 'of no use'\n"
        "DEBUG = True\n"
        "DATABASES = {{}}\n"
        "INSTALLED_APPS = ['channels', '{0}']\n"
        "CHANNEL_LAYERS = {{'default': {{'BACKEND': '{1}', 'CONFIG': {2!r}}}}}\n".format(
            app, backend(), config
        )
    )
    process = subprocess.Popen(
        # -B: what is compiled counts by the second, and these settings are changed within one.
        [sys.executable, "-B", "-m", "django", "check", "--settings", "site_settings"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join([str(folder)] + sys.path)),
    )
    return process.communicate()[0], process.returncode


@pytest.mark.parametrize("app", ["asgi_ipc", "asgi_ipc.apps.IPCConfig"])
def test_the_app_brings_the_checks(tmpdir, prefix, app):
    output, status = run_check(tmpdir, app, prefix=str(prefix), capacity=-5)
    assert status == 1
    assert "asgi_ipc.E004" in output
    assert "HINT" in output
    output, status = run_check(tmpdir, app, prefix=str(prefix), **SMALL)
    assert (status, "asgi_ipc" in output) == (0, False), output
