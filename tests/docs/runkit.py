"""Runs what the documents show, in a folder and on a prefix of its own.

Knows how a Python block and a command are started here. Must not know which pages there are.
"""
import functools
import grp
import os
import pwd
import re
import shlex
import signal
import subprocess
import sys
import time

from asgi_ipc.core import IPCChannelLayer, unlink

HERE = os.path.dirname(os.path.abspath(__file__))
TESTS = os.path.dirname(HERE)
PATIENCE = 60  # seconds for anything that merely has to happen, on a busy machine

SHOWN = ("mysite", "mychat", "readme")
"""The prefixes that the documents use."""

PROGRAMS = {
    "asgi-ipc": ["-m", "asgi_ipc"],
    "daphne": ["-m", "daphne"],
    "django-admin": ["-m", "django"],
    "python": [],
    "python3": [],
}
"""Commands that are this Python with some arguments."""

GROUP = re.compile(r"(?:send_group|group_send\))\(\s*\"([\w.-]+)\"")

SETTINGS = """\
CHANNEL_LAYERS = {{
    "default": {{"BACKEND": "asgi_ipc.aio.IPCChannelLayer", "CONFIG": {{"prefix": "{0}"}}}},
}}
"""


def with_prefix(code, prefix):
    """A Python block that uses a prefix of ours, wherever it names one."""

    def replace(found):
        name = found.group(2)
        for word in SHOWN:
            if name == word or name.startswith(word + "-"):
                return f'{found.group(1)}"{prefix}{name[len(word):]}"'
        raise AssertionError(f"{name} is not among the prefixes that documents may use")

    return re.sub(r'("prefix": |\bprefix=)"([^"]*)"', replace, code)


def command_with_prefix(text, prefix):
    """A command on a prefix of ours."""
    return re.sub(rf"(?<![\w.-])({'|'.join(SHOWN)})(?=[\s:`-]|$)", prefix, text)


def environment(folder, **more):
    """Where ``asgi-ipc``, ``python3`` and so on are this Python, and import what we do."""
    programs = os.path.join(str(folder), ".programs")
    if not os.path.isdir(programs):
        os.mkdir(programs)
        for name, words in PROGRAMS.items():
            path = os.path.join(programs, name)
            with open(path, "w", encoding="utf-8") as script:
                script.write(f'#!/bin/sh\nexec {shlex.join([sys.executable, *words])} "$@"\n')
            os.chmod(path, 0o755)
    # Without the folders of the tests, of which one is called chat, as the tutorial's app is.
    paths = [path for path in sys.path if path and not path.startswith(TESTS)]
    result = dict(
        os.environ,
        PATH=os.pathsep.join([programs, os.environ["PATH"]]),
        PYTHONPATH=os.pathsep.join(paths),
        PYTHONUNBUFFERED="1",
        COLUMNS="100",
        **more,
    )
    if "DJANGO_SETTINGS_MODULE" not in more:
        result.pop("DJANGO_SETTINGS_MODULE", None)
    return result


MEMBERS = {
    "chat.garden": ["specific.9!77c0b1ae"],
    "chat.lobby": ["specific.9!d2cf9b8f", "specific.9!0f1b4cc7"],
    "news": ["specific.9!d2cf9b8f"],
}
WAITING = [
    ("http.disconnect", {"reply_channel": "r1", "order": 1}),
    ("http.disconnect", {"reply_channel": "r2", "order": 2}),
    ("http.disconnect", {"reply_channel": "r3", "order": 3}),
    ("uploads", {"name": "hello.txt", "content": b"hello"}),
]
PROCESSES = {"web.py web": "specific.9!", "worker.py jobs": "jobs"}
"""What is in the site that docs/commands.rst shows."""

RECEIVER = """\
import os
from asgi_ipc import IPCChannelLayer

with IPCChannelLayer(prefix=os.environ["SITE_PREFIX"]) as layer:
    while True:
        layer.receive([{0!r}], block=True)
"""


class Site:
    """A prefix with something in it, for commands to find and scripts to reach.

    A context manager that ends the processes that :meth:`start` has started, and removes
    the prefix.
    """

    def __init__(self, prefix, channels=(), groups=()):
        self.prefix = prefix
        self._readers = {group: f"reader.{number}" for number, group in enumerate(groups)}
        self._processes = []
        with IPCChannelLayer(prefix=prefix) as layer:
            for group, members in MEMBERS.items():
                for member in members:
                    layer.group_add(group, member)
            for group, reader in self._readers.items():
                layer.group_add(group, reader)
            wanted = set(channels) - {channel for channel, _ in WAITING}
            for channel, message in WAITING + [(name, {"text": "hello"}) for name in wanted]:
                layer.send(channel, message)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self._processes:
            process.kill()
            process.wait()
        unlink(self.prefix)

    def start(self, folder):
        """Start two processes, each of which waits for messages."""
        for words, channel in PROCESSES.items():
            name = words.split()[0]
            with open(os.path.join(str(folder), name), "w", encoding="utf-8") as stream:
                stream.write(RECEIVER.format(channel))
            self._processes.append(
                subprocess.Popen(
                    ["python3", *words.split()],
                    executable=sys.executable,
                    cwd=str(folder),
                    env=environment(folder, SITE_PREFIX=self.prefix),
                )
            )
        with IPCChannelLayer(prefix=self.prefix) as layer:
            assert wait_until(
                lambda: layer.statistics()["messages"]["receivers"] == len(PROCESSES)
            )

    def sent_to_groups(self):
        """The message that each group has got; None for one that has got none."""
        with IPCChannelLayer(prefix=self.prefix) as layer:
            return {group: layer.receive([name])[1] for group, name in self._readers.items()}


def run_python(code, folder, prefix):
    """Run a script; return what it printed. Each group it sends to has to get a message."""
    with open(os.path.join(str(folder), "layer_settings.py"), "w", encoding="utf-8") as stream:
        stream.write(SETTINGS.format(prefix))
    with Site(prefix, groups=set(GROUP.findall(code))) as site:
        output = output_of(
            [sys.executable, "-W", "error", "-c", with_prefix(code, prefix)],
            folder,
            DJANGO_SETTINGS_MODULE="layer_settings",
        )
        missed = [group for group, message in site.sent_to_groups().items() if message is None]
    assert not missed, f"nothing came to the groups {missed}"
    return output


def run_settings(code, folder, prefix):
    """Use a settings module as a site does, by ``settings_child.py``; return what it says."""
    with open(os.path.join(str(folder), "settings.py"), "w", encoding="utf-8") as stream:
        stream.write(with_prefix(code, prefix))
    child = os.path.join(HERE, "settings_child.py")
    return output_of(
        [sys.executable, "-W", "error", child], folder, DJANGO_SETTINGS_MODULE="settings"
    )


def output_of(command, folder, **variables):
    """What a process prints, which has to end well and without a word of complaint."""
    process = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=str(folder),
        env=environment(folder, **variables),
        timeout=PATIENCE,
        check=False,
    )
    assert (process.returncode, process.stderr) == (0, ""), process.stdout + process.stderr
    return process.stdout


@functools.cache
def help_of(*words):
    """The help of ``asgi-ipc``, or of one of its commands."""
    return subprocess.check_output([sys.executable, "-m", "asgi_ipc", *words, "--help"], text=True)


def subcommands():
    """The commands that ``asgi-ipc`` has here."""
    text = help_of()
    listed = re.search(r"\{([\w,-]+)\}", text)
    if listed:
        return set(listed.group(1).split(","))
    return set(re.findall(r"^ {2,}(\w[\w-]*)(?=  |$)", text, re.MULTILINE))


def assert_known(known, wanted, what):
    """Of what is named: that it exists."""
    missing = sorted(set(wanted) - known)
    assert not missing, f"{what}: there is no {', '.join(missing)}"


QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


def programs(text):
    """The first word of each part of a command line."""
    words = shlex.shlex(text, posix=True, punctuation_chars=True)
    words.whitespace_split = True
    found, is_first = [], True
    for word in words:
        if is_first:
            found.append(word)
        is_first = word in ("|", "&&", "||", ";")
    return found


def missing_programs(text):
    """The programs of a command line that a shell on this machine does not know."""
    return [
        word
        for word in programs(text)
        if word not in PROGRAMS
        and subprocess.call(["bash", "-c", 'type "$0"', word], **QUIET) != 0
    ]


FIGURE = re.compile(r"\d+(?:[.,]\d+)*(?: (?:B|KiB|MiB|GiB|us|ms|s|min|h|times?)\b)?")
"""A number, with its unit."""

ENDLESS = re.compile(r"^asgi-ipc (top\b(?!.*(--count|-n ))|receive .*--follow)")
"""Commands that go on until Ctrl-C."""


def run_command(text, folder):
    """Run a command line in a shell; return ``(exit status, output)``."""
    process = subprocess.Popen(
        ["bash", "-c", f"set -o pipefail; {text}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=str(folder),
        env=environment(folder),
        start_new_session=True,
    )
    try:
        if ENDLESS.match(text):
            first = process.stdout.readline()
            os.killpg(process.pid, signal.SIGINT)
            return _finish(process, first)
        return _finish(process)
    finally:
        kill_group(process)


def _finish(process, first=""):
    output = first + process.communicate(timeout=PATIENCE)[0]
    return process.returncode, output


def kill_group(process):
    """End a process that leads a session, and all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def missing_lines(shown, output, prefix):
    """The shown lines that are not in the output, which may have them in another order.

    Figures and the width of gaps may differ, and ``...`` stands for anything. Sites are run by
    www-data there, and by us here, maybe beside processes of which not all can be seen.
    """
    user, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
    rest = [line.strip().replace("at least ", "") for line in output.splitlines()]
    missing = []
    for line in shown:
        ours = line.replace("www-data:www-data", f"{user}:{group}").replace("www-data", user)
        # Between the prefixes, which have figures that do not differ.
        parts = command_with_prefix(ours.strip(), prefix).split(prefix)
        pattern = re.escape(prefix).join(loosely(part) for part in parts)
        found = next((text for text in rest if re.fullmatch(pattern, text)), None)
        if found is None:
            missing.append(line)
        else:
            rest.remove(found)
    return missing


def loosely(line):
    """A regular expression for a part of a line of output."""

    def loose(part):
        if part == "...":
            return ".*"
        if part.isspace():
            return r"\s+"
        return FIGURE.pattern if FIGURE.fullmatch(part) else re.escape(part)

    parts = re.findall(rf"\.\.\.|{FIGURE.pattern}|\s+|.", line)
    return "".join(loose(part) for part in parts)


def wait_until(condition, seconds=PATIENCE, every=0.05):
    """Call ``condition`` until it is true or ``seconds`` have passed; return its last answer."""
    deadline = time.monotonic() + seconds
    answer = condition()
    while not answer and time.monotonic() < deadline:
        time.sleep(every)
        answer = condition()
    return answer
