"""docs/integrations.rst keeps its word: each of its examples is run, as it stands there."""
from __future__ import unicode_literals

import io
import os
import re
import socket
import subprocess
import sys
import textwrap
import time

import pytest
from djangokit import need_django, synchronous
from six.moves.urllib.request import urlopen

from asgi_ipc import testing
from asgi_ipc._shm.segment import runtime_folder
from asgi_ipc.core import IPCChannelLayer

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PAGE = os.path.join(PROJECT, "docs", "integrations.rst")
FUTURE = "from __future__ import unicode_literals\n"
SMALL = {"message_memory": 1024 * 1024, "group_memory": 1024 * 1024}


def section(title):
    """The text under a heading."""
    with io.open(PAGE, encoding="utf-8") as stream:
        text = stream.read()
    pattern = r"^{0}\n-+\n(.*?)(?=^[^\n]+\n-+\n|\Z)".format(re.escape(title))
    return re.search(pattern, text, re.MULTILINE | re.DOTALL).group(1)


def blocks(text, language="python"):
    pattern = r"^\.\. code-block:: {0}\n\n((?:(?:    .*)?\n)+)".format(language)
    return [textwrap.dedent(block) for block in re.findall(pattern, text, re.MULTILINE)]


def write(folder, *codes):
    """Put each block into the file that its first line names; return the names."""
    names = []
    for code in codes:
        name = re.match(r"# (\w+\.py)\n", code).group(1)
        folder.join(name).write(FUTURE + code)
        names.append(name)
    return names


def start(folder, *command, **variables):
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(folder)] + sys.path))
    for name in (testing.VARIABLE, "PYTEST_XDIST_WORKER", "PYTEST_ADDOPTS"):
        environment.pop(name, None)
    environment.update(variables)
    return subprocess.Popen(
        [sys.executable] + list(command),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        cwd=str(folder),
        env=environment,
    )


def output_of(process):
    output = process.communicate()[0]
    assert process.returncode == 0, output
    return output


def run_pytest(folder, *options):
    command = ["-m", "pytest", "-p", "no:cacheprovider", "-q", str(folder)]
    return output_of(start(folder, *(command + list(options))))


def need_channels_4():
    need_django()
    if synchronous():
        pytest.skip("this is for Channels 3 and 4")


def django_project(folder, *settings):
    """A project whose settings are the blocks given, after what every project has."""
    folder.join("site_settings.py").write(
        FUTURE
        + textwrap.dedent(
            """
            import os

            FOLDER = os.path.dirname(os.path.abspath(__file__))
            SECRET_KEY = "of no use"
            DEBUG = True
            ALLOWED_HOSTS = ["localhost"]
            ROOT_URLCONF = "site_urls"
            ASGI_APPLICATION = "site_urls.application"
            DATABASES = {"default": {
                "ENGINE": "django.db.backends.sqlite3",
                "NAME": os.path.join(FOLDER, "site.sqlite3"),
                "TEST": {"NAME": os.path.join(FOLDER, "test.sqlite3")},
            }}
            INSTALLED_APPS = ["channels"]
            """
        )
        + "\n".join(settings)
    )
    folder.join("site_urls.py").write(
        FUTURE
        + textwrap.dedent(
            """
            from channels.layers import get_channel_layer
            from django.core.asgi import get_asgi_application
            from django.http import HttpResponse
            from django.urls import path

            urlpatterns = [path("prefix", lambda _: HttpResponse(get_channel_layer().prefix))]
            application = get_asgi_application()
            """
        )
    )
    folder.join("manage.py").write(
        "import sys\n"
        "from django.core.management import execute_from_command_line\n"
        "execute_from_command_line(sys.argv)\n"
    )


SITE = {"DJANGO_SETTINGS_MODULE": "site_settings"}


def test_the_exporter(prefix, tmpdir):
    pytest.importorskip("prometheus_client")
    code = blocks(section("Prometheus"))[0]
    free = socket.socket()
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
    free.close()
    assert '"mysite"' in code
    assert "9107" in code
    write(tmpdir, code.replace("9107", str(port)).replace('"mysite"', '"%s"' % prefix))
    with IPCChannelLayer(prefix=prefix, **SMALL) as layer:
        layer.send("jobs", {})
        process = start(tmpdir, "exporter.py")
        try:
            text = page("http://127.0.0.1:{0}/metrics".format(port), process)
        finally:
            process.kill()
            process.communicate()
    assert 'asgi_ipc_messages_waiting{prefix="%s"} 1.0' % prefix in text
    assert 'asgi_ipc_up{prefix="%s"} 1.0' % prefix in text


def page(address, process):
    """A page of a server that is just starting."""
    while True:
        try:
            return urlopen(address).read().decode("utf-8")
        except (IOError, OSError):
            assert process.poll() is None, process.communicate()
            time.sleep(0.02)


def test_the_page_of_metrics(prefix, monkeypatch):
    pytest.importorskip("prometheus_client")
    need_channels_4()
    from django.test import RequestFactory, override_settings

    layer = {"BACKEND": "asgi_ipc.aio.IPCChannelLayer", "CONFIG": dict(SMALL, prefix=prefix)}
    names = {}
    with override_settings(CHANNEL_LAYERS={"default": layer}, DEFAULT_CHARSET="utf-8"):
        exec(compile(blocks(section("Prometheus"))[1], "metrics.py", "exec"), names)
        answer = names["metrics"](RequestFactory().get("/metrics"))
    assert answer["Content-Type"].startswith("text/plain")
    assert 'asgi_ipc_group_drops_total{prefix="%s"} 0.0' % prefix in answer.content.decode()


def metrics_in(text):
    return set(re.findall(r"\basgi_ipc_[a-z_]+", text))


def samples_of(collector):
    return {sample[0] for family in collector.collect() for sample in family.samples}


def test_metrics_and_queries_are_of_what_there_is(prefix):
    pytest.importorskip("prometheus_client")
    from asgi_ipc.prometheus import IPCCollector

    with IPCChannelLayer(prefix=prefix, **SMALL) as layer:
        there = samples_of(IPCCollector(layer))
    text = section("Prometheus")
    assert set(re.findall(r"^   \* - ``(asgi_ipc_\w+)``$", text, re.MULTILINE)) == there
    queries = blocks(text, "text")
    assert len(queries) == 2
    for query in queries:
        assert metrics_in(query)
        assert metrics_in(query) <= there
        assert query.count("(") == query.count(")")


def test_the_dashboard_is_where_it_is_said_to_be():
    (path,) = re.findall(r"``(examples/\S+)``", section("Grafana"))
    assert os.path.isfile(os.path.join(PROJECT, path))


def test_the_tests_with_pytest(tmpdir):
    conftest, jobs, room = blocks(section("Tests with pytest"))
    assert write(tmpdir, conftest, jobs) == ["conftest.py", "test_jobs.py"]
    assert "2 passed" in run_pytest(tmpdir)
    need_channels_4()
    write(tmpdir, room)
    assert "3 passed" in run_pytest(tmpdir)


def test_every_fixture_is_told_of():
    from asgi_ipc import fixtures

    told = set(re.findall(r"``(\w*ipc\w*)``", section("Tests with pytest")))
    there = {name for name in vars(fixtures) if "ipc_" in name and not name.startswith("_")}
    assert told == there - {"asgi_ipc"}


def test_the_command_with_xdist(tmpdir):
    pytest.importorskip("xdist")
    write(tmpdir, *blocks(section("Tests with pytest"))[:2])
    (command,) = blocks(section("pytest-xdist"), "console")
    words = command.split()
    assert words[:2] == ["$", "pytest"]
    assert "2 passed" in run_pytest(tmpdir, *words[2:])


def test_the_tests_with_django(tmpdir):
    need_channels_4()
    news, settings, _ = blocks(section("Tests with Django"))
    django_project(tmpdir, settings)
    write(tmpdir, news, *blocks(section("Tests with pytest"))[:1])
    plugin = tmpdir.join("setup_plugin.py")
    plugin.write("import django\ndjango.setup()\n")
    output = output_of(
        start(tmpdir, "-m", "pytest", "-q", "-p", "setup_plugin", str(tmpdir), **SITE)
    )
    assert "2 passed" in output
    assert "Ran 1 test" in output_of(start(tmpdir, "manage.py", "test", "test_news", **SITE))


def test_the_settings_for_tests(tmpdir):
    names = {}
    exec(compile(FUTURE + blocks(section("Tests with Django"))[1], "settings.py", "exec"), names)
    setting = names["CHANNEL_LAYERS"]["default"]
    with IPCChannelLayer(**dict(setting["TEST_CONFIG"], **SMALL)) as layer:
        assert layer.capacity == 50
        assert layer.prefix.startswith(testing.NAME)
        testing.remove(layer.prefix)


def test_the_live_server(tmpdir):
    need_channels_4()
    pytest.importorskip("daphne")
    _, settings, live = blocks(section("Tests with Django"))
    django_project(tmpdir, settings)
    write(tmpdir, live)
    assert "Ran 1 test" in output_of(start(tmpdir, "manage.py", "test", "test_live", **SITE))


CHANNELS_1 = """
    from asgi_ipc.testing import isolated_config

    CHANNEL_LAYERS = {"default": {
        "BACKEND": "asgi_ipc.IPCChannelLayer",
        "ROUTING": "site_urls.channel_routing",
        "TEST_CONFIG": isolated_config(),
    }}
"""
CHANNELS_1_URLS = """
    from django.conf import settings
    from django.conf.urls import url
    from django.http import HttpResponse

    def prefix(request):
        return HttpResponse(settings.CHANNEL_LAYERS["default"]["TEST_CONFIG"]["prefix"])

    urlpatterns = [url("^prefix$", prefix)]
    channel_routing = []
"""
CHANNELS_1_TEST = """
    from channels.test import ChannelLiveServerTestCase
    from django.conf import settings
    from six.moves.urllib.request import urlopen

    class LiveTests(ChannelLiveServerTestCase):
        serve_static = False

        def test_daphne_and_worker_share_the_layer(self):
            answer = urlopen(self.live_server_url + "/prefix").read().decode("ascii")
            mine = settings.CHANNEL_LAYERS["default"]["TEST_CONFIG"]["prefix"]
            self.assertEqual(answer, mine)
            with open("prefix", "w") as stream:
                stream.write(mine)
"""


def test_the_live_server_of_channels_1(tmpdir):
    need_django()
    if not synchronous():
        pytest.skip("this is for Channels 1")
    django_project(tmpdir, textwrap.dedent(CHANNELS_1))
    tmpdir.join("site_urls.py").write(FUTURE + textwrap.dedent(CHANNELS_1_URLS))
    tmpdir.join("test_live.py").write(FUTURE + textwrap.dedent(CHANNELS_1_TEST))
    assert "Ran 1 test" in output_of(start(tmpdir, "manage.py", "test", "test_live", **SITE))
    prefix = tmpdir.join("prefix").read()
    assert prefix.startswith(testing.NAME)
    run = prefix.rsplit("-", 1)[0]
    assert [name for name in os.listdir(runtime_folder()) if name.startswith(run)] == []


def test_the_app_and_the_command(tmpdir, prefix):
    need_django()
    (app,) = blocks(section("System checks"))
    (command,) = blocks(section("System checks"), "console")
    wrong = "CHANNEL_LAYERS = {'default': {'BACKEND': 'asgi_ipc.Nothing'}}"
    django_project(tmpdir, app, wrong)
    tmpdir.join("site_urls.py").write("urlpatterns = []\n")
    words = command.split()
    assert words[:2] == ["$", "python"]
    process = start(tmpdir, *words[2:], **SITE)
    output = process.communicate()[0]
    assert process.returncode == 1, output
    assert "asgi_ipc.E003" in output


def test_every_finding_is_told_of():
    need_django()
    from asgi_ipc import checks

    told = re.findall(r"^   \* - ``asgi_ipc\.([EW]\d+)``$", section("System checks"), re.MULTILINE)
    assert set(told) == set(re.findall(r"\b[EW]00\d\b", checks.__doc__))


def test_the_log(tmpdir, prefix):
    (code,) = blocks(section("Logging"))
    write(tmpdir, code)
    script = textwrap.dedent(
        """
        import logging.config, os, signal, sys
        import settings
        from asgi_ipc import IPCChannelLayer

        logging.config.dictConfig(settings.LOGGING)
        layer = IPCChannelLayer(prefix=sys.argv[1], message_memory=2**20, group_memory=2**20)
        if not os.fork():
            layer._stores.messages._run(os.kill, os.getpid(), signal.SIGKILL)
        os.wait()
        layer.flush()
        """
    )
    output = output_of(start(tmpdir, "-c", script, prefix))
    assert output.count("\n") == 1
    assert "nothing is lost" in output
    assert prefix in output


def test_no_example_is_left_out():
    titles = {
        "Prometheus": 2,
        "Tests with pytest": 3,
        "Tests with Django": 3,
        "System checks": 1,
        "Logging": 1,
    }
    for title, count in titles.items():
        assert len(blocks(section(title))) == count
    with io.open(PAGE, encoding="utf-8") as stream:
        text = stream.read()
    languages = re.findall(r"^ *\.\. code-block:: (\w+)$", text, re.MULTILINE)
    assert sorted(languages) == ["console"] * 2 + ["python"] * 10 + ["text"] * 2
    # Nor one that is no code-block.
    assert not re.search(r"^(?!\.\. ).*::$", text, re.MULTILINE)
