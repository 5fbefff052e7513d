"""What is in the documents and is not run by these tests, and why not.

An entry that matches nothing any more fails a test, and so does a block that is in no entry and
that no test runs.
"""
import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Listed:
    """Blocks, or commands, of the pages ``page`` in which ``pattern`` is found."""

    page: str
    pattern: str
    reason: str

    def covers(self, page, text):
        return re.fullmatch(self.page, page) and re.search(self.pattern, text, re.MULTILINE)


PAGES = {
    "docs/integrations.rst": "tests/test_integrations.py",
}
"""Pages that have tests of their own, outside of this folder, which run every block."""

TUTORIAL = "docs/tutorial.rst"
"""The page that is run as a whole, by test_docs_tutorial.py, but for what is listed here."""

OF_README = "tests/test_readme.py runs it"
DRAWING = "a drawing"
BRIDGES = "tests/bridge and tests/machines run bridges, with a Redis"

BLOCKS = [
    Listed("README.rst", r"receive\(\[\"greetings\"\], block=True\)", OF_README),
    Listed("README.rst", r"layer.new_channel\(\"reply\?\"\)", OF_README),
    Listed("README.rst", r"send_group\(\"news\", .*the backup is done", OF_README),
    Listed("README.rst", r"\"ROUTING\": ", OF_README),
    Listed("README.rst", r"prefix=\"readme\", capacity=2", OF_README),
    Listed("docs/design.rst", r"aio ----> codec", DRAWING + " of the modules"),
    Listed("docs/design.rst", r"MAGIC  1 LAYOUT", DRAWING + " of the header"),
    Listed("docs/design.rst", r"the fast way, for the thread", DRAWING + " of the lock's ways"),
    Listed("docs/design.rst", r"^semaphore\.acquire\(0\) --> flock", DRAWING + " of the slow way"),
    Listed("docs/design.rst", r"\^ HEAD .*\^ TAIL", DRAWING + " of the log"),
    Listed("docs/design.rst", r"^4 SEQ ", DRAWING + " of a record"),
    Listed("docs/design.rst", r"^a200  0b 00", "a dump; tests/test_layout.py makes these bytes"),
    Listed("docs/design.rst", r"WAIT_FIRST --> node", DRAWING + " of the waiters"),
    Listed("docs/design.rst", r"bucket of \(channel, group\)", DRAWING + " of a group"),
    Listed("docs/design.rst", r"posted ---\+", DRAWING + " of the inbox"),
    Listed("docs/design.rst", r"--> outbox --> bridge", DRAWING + " of the bridge"),
    Listed("docs/commands.rst", r"^asgi-ipc bridge ", BRIDGES),
    Listed("docs/scaling.rst", r"shared memory -- bridge ---", DRAWING + " of two machines"),
]

PIP = r"^python3 -m pip install [^&|;]+"
TOX = r" && python3 -m tox( -e bench)?$"
CHAT = PIP + " && python3 examples/chat/run.py$"

COMMANDS = [
    Listed("README.rst", CHAT, "it installs packages; tests/chat runs the chat"),
    Listed("README.rst", r"^python3 -m asgi_ipc rm readme$", OF_README),
    Listed(r"README.rst|docs/.*", PIP + TOX, "runs all tests, these among them"),
    Listed(
        "docs/performance.rst",
        PIP + r" && python3 -m benchmarks$",
        "tests/test_benchmarks.py runs parts of it",
    ),
    Listed(r"docs/.*", PIP + "$", "it installs packages, as tox has done here"),
    Listed(TUTORIAL, r"^python3 -m venv ", "tox has made an environment"),
    Listed(TUTORIAL, r"^\. chat-venv/", "tox has made an environment"),
    Listed("docs/commands.rst", r"^eval .*argcomplete", "it sets a shell up, by argcomplete"),
    Listed(r"README.rst|docs/scaling.rst", r"^asgi-ipc bridge ", BRIDGES),
    Listed("README.rst", r"^pip install \"asgi_ipc\[redis\]\"$", "it installs packages"),
    Listed(r"docs/.*", r"^docker run ", "it needs Docker, and an image of a site"),
]

OUTPUTS = [
    Listed("docs/commands.rst", r"^asgi-ipc doctor ", "a lock whose holder was stopped"),
]
"""Commands that are run, and whose output is not compared with what is shown."""


def reason_for_block(block):
    """Why a block is not run here; None if it has to be."""
    return _reason(BLOCKS, block.page, block.text)


def reason_for_command(command):
    """Why a command is not run here; None if it has to be."""
    return _reason(COMMANDS, command.block.page, command.text)


def reason_for_output(command):
    """Why what a command prints is not compared; None if it has to be."""
    return _reason(OUTPUTS, command.block.page, command.text)


def _reason(entries, page, text):
    return next((entry.reason for entry in entries if entry.covers(page, text)), None)
