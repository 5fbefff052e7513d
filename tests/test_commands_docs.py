"""docs/commands.rst: every command has its section, and what it shows can be typed."""
import io
import os
import re
import shlex

import pytest

from asgi_ipc import cli

PATH = os.path.join(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "docs", "commands.rst"
)
WORDS = re.compile(r"asgi-ipc ((?:[^|;'\"]|'[^']*')+)")


def read():
    with io.open(PATH, encoding="utf-8") as source:
        return source.read()


def commands():
    """The arguments of every call in a block of the page."""
    lines = re.findall(r"^   \$ (.*)$", read(), re.MULTILINE)
    called = [match for line in lines for match in WORDS.findall(line)]
    return [match for match in called if match.strip() != ""]


def names():
    """The commands there are."""
    parser = cli._parser()
    (subparsers,) = [one for one in parser._actions if hasattr(one, "choices") and one.choices]
    return subparsers.choices


def test_the_calls_are_found():
    assert len(commands()) >= len(names())


@pytest.mark.parametrize("words", sorted(set(commands())))
def test_what_is_shown_can_be_typed(words):
    arguments = cli._parser().parse_args(shlex.split(str(words)))
    assert callable(arguments.run)


def test_every_command_and_every_option_is_described():
    page = read()
    sections = re.findall(r"^([a-z-]+)\n-+$", page, re.MULTILINE)
    assert set(sections) == set(names())
    for name, parser in names().items():
        begin = page.index("\n{0}\n{1}\n".format(name, "-" * len(name)))
        for action in parser._actions:
            for option in action.option_strings:
                if option not in ("-h", "--help", "--json", "--force", "--create"):
                    text = page if name == "group-send" else page[begin:]
                    assert option in text, (name, option)


def test_statuses_are_the_same_as_in_the_help():
    page = read()
    table = page[page.index("Exit status\n~~~") : page.index("JSON\n~~~~")]
    assert re.findall(r"^   \* - (\d+)$", table, re.MULTILINE) == re.findall(
        r"^  (\d+) +", cli._EPILOG, re.MULTILINE
    )
