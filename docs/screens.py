"""Pictures of the command line at work, for these documents: ``python docs/screens.py``.

Starts a small site on a prefix of its own (two servers with clients, a worker that is too slow, a
script), runs ``asgi-ipc`` in tmux as a person would, and draws what the terminal shows then as
``docs/images/stat.svg`` and ``top.svg``. Needs tmux and rich (``pip install "asgi_ipc[cli]"``).
"""
import os
import re
import subprocess
import sys
import tempfile
import time

from rich.console import Console
from rich.text import Text

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
IMAGES = os.path.join(ROOT, "docs", "images")
PREFIX = "mysite"
COLUMNS = 100

SERVER = """
import sys, time
from asgi_ipc import IPCChannelLayer

prefix, number = sys.argv[1:]
layer = IPCChannelLayer(prefix=prefix, capacity=500)
queue = "specific.server{0}!".format(number)
for client in range(40):
    layer.group_add("chat-lobby", queue + "client{0}".format(client))
    layer.group_add("chat-garden" if client % 3 else "news", queue + "client{0}".format(client))
while True:
    layer.receive([queue], block=True)
"""
WORKER = """
import sys, time
from asgi_ipc import IPCChannelLayer

layer = IPCChannelLayer(prefix=sys.argv[1])
while True:
    channel, message = layer.receive(["thumbnails", "uploads"], block=True)
    time.sleep(0.013 if channel else 0)
"""
SENDER = """
import sys, time
from asgi_ipc import IPCChannelLayer

layer = IPCChannelLayer(prefix=sys.argv[1], channel_capacity={"http.disconnect": 50})
number = 0
while True:
    number += 1
    layer.send_group("chat-lobby", {"type": "chat.line", "text": "line {0}".format(number)})
    if number % 3 == 0:
        layer.send_group("news", {"type": "news.flash", "text": "it works"})
    for every, channel in ((4, "thumbnails"), (40, "uploads"), (20, "http.disconnect")):
        if number % every == 0:
            try:
                layer.send(channel, {"number": number})
            except layer.ChannelFull:
                # Nobody reads that one.
                pass
    time.sleep(0.004)
"""
SITE = (
    ("server.py", SERVER, "1"), ("server.py", SERVER, "2"), ("worker.py", WORKER),
    ("news.py", SENDER),
)  # fmt: skip


def main():
    if subprocess.call([sys.executable, "-m", "asgi_ipc", "stat", PREFIX], env=environment(),
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0:
        raise SystemExit("there is a prefix {0} already; this needs it for itself".format(PREFIX))
    with tempfile.TemporaryDirectory() as folder:
        site = []
        try:
            for name, code, *arguments in SITE:
                site.append(start(folder, name, code, arguments))
            time.sleep(6)
            picture("stat", "stat " + PREFIX, 5, lines=52)
            picture("top", "top " + PREFIX, 5, lines=24)
        finally:
            for process in site:
                process.kill()
                process.wait()
            subprocess.check_call(
                [sys.executable, "-m", "asgi_ipc", "rm", PREFIX, "--force"], env=environment()
            )


def start(folder, name, code, arguments):
    """Start a process of the site, by a command line that is fit to be seen."""
    with open(os.path.join(folder, name), "w", encoding="utf-8") as stream:
        stream.write(code)
    # By that name Python finds no environment; hence its path in ours.
    command = ["python", name, PREFIX, *arguments]
    return subprocess.Popen(command, executable=sys.executable, cwd=folder, env=environment())


def environment():
    """It is this checkout which is shown, with the packages that this Python has."""
    return dict(os.environ, PYTHONPATH=os.pathsep.join([ROOT, *filter(None, sys.path)]))


def picture(name, command, seconds, lines):
    """Run a command in a terminal, and draw what that shows after so many seconds."""
    with tempfile.TemporaryDirectory() as folder:
        tmux = ["tmux", "-f", "/dev/null", "-S", os.path.join(folder, "socket")]
        shell = "{0} -m asgi_ipc {1}; sleep 60".format(sys.executable, command)
        subprocess.check_call(
            [*tmux, "new-session", "-d", "-x", str(COLUMNS), "-y", str(lines), shell],
            env=dict(environment(), TERM="xterm-256color", COLORTERM="truecolor", LC_ALL="C.UTF-8"),
        )
        try:
            time.sleep(seconds)
            screen = subprocess.check_output([*tmux, "capture-pane", "-p", "-e"])
        finally:
            subprocess.check_call([*tmux, "kill-server"])
    draw(name, "asgi-ipc " + command, screen.decode("utf-8").rstrip())


def draw(name, title, screen):
    with open(os.devnull, "w", encoding="utf-8") as nothing:
        console = Console(record=True, width=COLUMNS, file=nothing, force_terminal=True)
        console.print(Text.from_ansi(screen), soft_wrap=True)
    drawn = console.export_svg(title=title, unique_id=name)
    # The font that it would fetch; any of fixed width will do.
    drawn = re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL)
    drawn = "\n".join(line.rstrip() for line in drawn.splitlines() if line.strip()) + "\n"
    with open(os.path.join(IMAGES, name + ".svg"), "w", encoding="utf-8") as stream:
        stream.write(drawn)


if __name__ == "__main__":
    main()
