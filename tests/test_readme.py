"""README.rst keeps its word: its examples run as they stand there, each in a process of its own."""
import io
import os
import re
import subprocess
import sys
import textwrap
import time

import pytest

from asgi_ipc._shm import segment
from asgi_ipc.core import IPCChannelLayer
from asgi_ipc.options import Options
from asgi_ipc.stores import segment_names

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FUTURE = "from __future__ import print_function, unicode_literals\n"


def read():
    with io.open(os.path.join(PROJECT, "README.rst"), encoding="utf-8") as stream:
        return stream.read()


def section(title):
    """The text under a heading, up to the next one of its level."""
    pattern = r"^{0}\n-+\n(.*?)(?=^[^\n]+\n-+\n|\Z)".format(re.escape(title))
    return re.search(pattern, read(), re.MULTILINE | re.DOTALL).group(1)


def blocks(text):
    """The Python code blocks of a text."""
    pattern = r"^\.\. code-block:: python\n\n((?:(?:    .*)?\n)+)"
    return [textwrap.dedent(block) for block in re.findall(pattern, text, re.MULTILINE)]


def run(code, prefix):
    """Start a Python with an example, on a prefix of our own."""
    changed, count = re.subn(r'prefix="\w+"', 'prefix="{0}"'.format(prefix), code)
    assert count
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", FUTURE + changed],
        stdout=subprocess.PIPE,
        universal_newlines=True,
        env=environment,
    )


def output_of(process):
    output = process.communicate()[0]
    assert process.returncode == 0
    return output


@pytest.mark.parametrize("receiver_first", [True, False])
def test_two_terminals(prefix, receiver_first):
    codes = blocks(section("Two terminals"))
    assert len(codes) == 2
    processes = [None, None]
    for number in (0, 1) if receiver_first else (1, 0):
        processes[number] = run(codes[number], prefix)
        # The second one starts while the first waits.
        wait_for_doorbell(prefix)
    assert [output_of(process) for process in processes] == ["hello there\n", "hello yourself\n"]


def wait_for_doorbell(prefix):
    deadline = time.time() + 30
    while not any(
        name.startswith(prefix) and name.endswith(".bell")
        for name in os.listdir(segment.runtime_folder())
    ):
        assert time.time() < deadline
        time.sleep(0.01)


def test_the_script(prefix):
    with IPCChannelLayer(prefix=prefix) as layer:
        layer.group_add(u"news", u"reader")
        (code,) = [code for code in blocks(section("With Channels 1")) if "send_group" in code]
        output_of(run(code, prefix))
        assert layer.receive([u"reader"]) == (u"reader", {u"text": u"the backup is done"})


def test_a_script_beside_channels_4(prefix):
    with IPCChannelLayer(prefix=prefix) as layer:
        layer.group_add(u"news", u"reader")
        (code,) = [
            code for code in blocks(section("With Channels 3 and 4")) if "send_group" in code
        ]
        output_of(run(code, prefix))
        flash = {u"type": u"news.flash", u"text": u"the backup is done"}
        assert layer.receive([u"reader"]) == (u"reader", flash)


def test_the_settings(prefix):
    (code,) = [code for code in blocks(section("With Channels 1")) if "CHANNEL_LAYERS" in code]
    settings = {}
    exec(compile(FUTURE + code, "settings.py", "exec"), settings)
    setting = settings["CHANNEL_LAYERS"]["default"]
    module, name = setting["BACKEND"].rsplit(".", 1)
    layer_class = getattr(__import__(module, fromlist=[str(name)]), name)
    config = dict(setting["CONFIG"], prefix=prefix)
    with layer_class(**config) as layer:
        assert layer.get_capacity(u"http.response!abc") == 1000
        assert layer.get_capacity(u"websocket.receive") == 200


def test_the_methods_in_short(prefix):
    (code,) = blocks(section("Methods"))
    assert "its capacity" in output_of(run(code, prefix))


def test_no_example_is_left_out():
    titles = ("Two terminals", "With Channels 3 and 4", "With Channels 1")
    tested = sum(len(blocks(section(title))) for title in titles)
    assert len(blocks(read())) == tested + len(blocks(section("Methods")))


def test_every_option_has_its_heading_and_default():
    try:
        from inspect import signature
    except ImportError:
        pytest.skip("Python 2.7 has no inspect.signature")
    headings = re.findall(r"^(\w+)\n~+\n\n(.*?)\n\n", section("Options"), re.MULTILINE | re.DOTALL)
    parameters = signature(IPCChannelLayer).parameters
    assert [name for name, _ in headings] == list(parameters)
    for name, text in headings:
        default = parameters[name].default
        shown = {"mode": "``0o600``", "prefix": '``"asgi"``', "max_message_size": "a quarter"}
        assert "default " + shown.get(name, "``{0!r}``".format(default)) in text


def test_every_error_is_told_of():
    from asgi_ipc import errors

    told = set(re.findall(r"^``(\w+)``$", section("Errors"), re.MULTILINE))
    own = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and value is not errors.IPCError
    }
    assert told == own | {"TypeError", "ValueError"}


def test_limits_are_those_of_the_code(prefix):
    text = section("Options")
    options = Options(
        prefix, 60, 86400, 100, None, 65536, 65536, 0o600, None, 5, 10
    )
    assert "at least ``65536``" in text
    assert options.max_message_size == 65536 // 4
    with pytest.raises(ValueError, match="65536"):
        Options(prefix, 60, 86400, 100, None, 65535, 65536, 0o600, None, 5, 10)


def test_the_commands_are_those_of_ci():
    with io.open(os.path.join(PROJECT, ".ci", "run"), encoding="utf-8") as stream:
        command = re.search(r"^python3 -m pip install .*tox$", stream.read(), re.MULTILINE)
    assert command.group(0) in section("Try it")


def test_the_first_command_is_one_that_can_be_given():
    commands = re.search(
        r"^    python3 -m pip install \"\.\[(\w+)\]\" && python3 (\S+)$", read(), re.MULTILINE
    )
    extra, program = commands.groups()
    assert os.path.isfile(os.path.join(PROJECT, program))
    with io.open(os.path.join(PROJECT, "setup.py"), encoding="utf-8") as stream:
        assert '"{0}": '.format(extra) in stream.read()


def test_rm_leaves_nothing(prefix):
    IPCChannelLayer(prefix=prefix).close()
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path))
    words = re.search(r"python3 (-m asgi_ipc rm) readme", section("Two terminals")).group(1)
    command = [sys.executable] + words.split() + [prefix]
    assert subprocess.call(command, env=environment) == 0
    for name in segment_names(prefix):
        assert not segment.unlink(name)
