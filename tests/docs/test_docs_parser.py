"""The blocks are all that Sphinx finds, and the checks notice what is wrong."""
import glob
import io
import os
import re
import textwrap

import pytest
from checks import CHECKS
from docblocks import PROJECT, Block, blocks, commands_of, find, pages
from docutils import nodes
from docutils.core import publish_doctree
from runkit import (
    assert_known,
    command_with_prefix,
    help_of,
    missing_lines,
    subcommands,
    with_prefix,
)
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace

HIGHLIGHTED = (nodes.literal_block, nodes.doctest_block)


def normal(text):
    return "\n".join(line.rstrip() for line in textwrap.dedent(text).strip("\n").splitlines())


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    """By its page: what Sphinx makes of a document."""
    folder = str(tmp_path_factory.mktemp("sphinx"))
    docs = os.path.join(PROJECT, "docs")
    with docutils_namespace():
        app = Sphinx(
            docs, docs, folder, folder, "dummy", status=None, warning=io.StringIO(), freshenv=True
        )
        app.build(force_all=True)
        return {
            os.path.relpath(app.env.doc2path(name), PROJECT): app.env.get_doctree(name)
            for name in app.env.found_docs
        }


def blocks_of_tree(tree):
    return [node for node in tree.findall() if isinstance(node, HIGHLIGHTED)]


def is_of_docstring(node):
    return ":docstring of " in (node.source or "")


def test_no_block_is_overlooked(trees):
    with open(os.path.join(PROJECT, "README.rst"), encoding="utf-8") as stream:
        trees = dict(trees, **{"README.rst": publish_doctree(stream.read())})
    assert sorted(trees) == sorted(pages())
    ours = {normal(block.text) for block in blocks()}
    seen = {
        normal(node.astext())
        for tree in trees.values()
        for node in blocks_of_tree(tree)
        if not is_of_docstring(node)
    }
    assert seen == ours


def test_what_docstrings_show_are_layouts(trees):
    """Nothing in them is code to run: words and offsets, drawn."""
    shown = [
        node.astext()
        for tree in trees.values()
        for node in blocks_of_tree(tree)
        if is_of_docstring(node)
    ]
    assert shown
    for text in shown:
        assert not re.search(r"^(\$|>>>|asgi-ipc|python3?|import|from) ", text, re.MULTILINE), text


def test_pages_are_all_that_there_are():
    count = sum(name.endswith(".rst") for _, _, names in os.walk(os.path.join(PROJECT, "docs"))
                for name in names)
    assert count + 1 == len(pages())
    assert len(glob.glob(os.path.join(PROJECT, "*.rst"))) == 2  # README and CHANGELOG


# -- commands between words ----------------------------------------------------------------


def inline_commands():
    """``asgi-ipc NAME ...`` as it stands in the text of the pages."""
    found = set()
    for page in pages():
        with open(os.path.join(PROJECT, page), encoding="utf-8") as stream:
            text = stream.read()
        for literal in re.findall(r"``((?:asgi-ipc|python3? -m asgi_ipc)\s[^`]+)``", text):
            found.add((page, " ".join(literal.split())))
    return sorted(found)


@pytest.mark.parametrize("page, text", inline_commands())
def test_a_command_in_the_text_exists(page, text):
    name = re.sub(r"^(asgi-ipc|python3? -m asgi_ipc) ", "", text).split()[0]
    assert_known(subcommands(), [name], f"{page}: {text}")
    options = set(re.findall(r"--[\w-]+", help_of(name)))
    assert_known(options, re.findall(r"--[\w-]+", text), f"{page}: {text}")


def environments_shown():
    """``tox -e NAME`` in the pages."""
    found = set()
    for page in pages():
        with open(os.path.join(PROJECT, page), encoding="utf-8") as stream:
            for names in re.findall(r"\btox -e ([\w,-]+)", stream.read()):
                found.update((page, name) for name in names.split(","))
    return sorted(found)


@pytest.mark.parametrize("page, name", environments_shown())
def test_an_environment_of_tox_exists(page, name):
    with open(os.path.join(PROJECT, "tox.ini"), encoding="utf-8") as stream:
        text = stream.read()
    listed = re.search(r"^env_list =\n((?:    .*\n)+)", text, re.MULTILINE).group(1)
    sections = re.findall(r"^\[testenv:([\w-]+)\]$", text, re.MULTILINE)
    assert name in re.findall(r"[\w-]+", listed) + sections


def extras_shown():
    """What the pages install with the package: ``asgi_ipc[channels]``."""
    found = set()
    for page in pages():
        with open(os.path.join(PROJECT, page), encoding="utf-8") as stream:
            for names in re.findall(r"\basgi_ipc\[([\w,]+)\]", stream.read()):
                found.update((page, name) for name in names.split(","))
    return sorted(found)


@pytest.mark.parametrize("page, name", extras_shown())
def test_an_extra_exists(page, name):
    with open(os.path.join(PROJECT, "setup.py"), encoding="utf-8") as stream:
        known = re.findall(r'^ +"(\w+)": ', stream.read(), re.MULTILINE)
    assert_known(set(known), [name], f"{page}: asgi_ipc[{name}]")


# -- the tools of these tests --------------------------------------------------------------

SAMPLE = """\
Title
=====

Words::

    a literal block

    in two parts

* In a list:

  .. code-block:: python
     :caption: file.py

     x = 1

  .. code-block:: console

     $ first \\\\
     > more
     printed
     $ second

.. code-block:: yaml
   :emphasize-lines: 1

   key: value
.. list-table::
   :widths: 1

   * - cell
"""


def test_blocks_are_found():
    found = list(find("page", SAMPLE.replace("\\\\", "\\")))
    assert [(block.line, block.language, block.caption, block.text) for block in found] == [
        (6, None, None, "a literal block\n\nin two parts\n"),
        (15, "python", "file.py", "x = 1\n"),
        (19, "console", None, "$ first \\\n> more\nprinted\n$ second\n"),
        (27, "yaml", None, "key: value\n"),
    ]
    assert {block.section for block in found} == {"Title"}
    commands = commands_of(found[2])
    assert [(command.line, command.text, command.output) for command in commands] == [
        (19, "first more", ("printed",)),
        (22, "second", ()),
    ]


def test_a_literal_block_of_commands_needs_no_prompt():
    block = Block("page", 1, None, None, "", "python3 -m this\n\nasgi-ipc rm x\n")
    assert [command.text for command in commands_of(block)] == ["python3 -m this", "asgi-ipc rm x"]


def test_prefixes_are_replaced():
    code = 'prefix="mysite"\n"prefix": "mysite-jobs"\nother = "mysite"\n'
    assert with_prefix(code, "t1") == 'prefix="t1"\n"prefix": "t1-jobs"\nother = "mysite"\n'
    with pytest.raises(AssertionError):
        with_prefix('prefix="production"', "t1")
    command = "asgi-ipc rm mysite && ls /dev/shm/mysite-messages mysite.asgi"
    assert command_with_prefix(command, "t1") == (
        "asgi-ipc rm t1 && ls /dev/shm/t1-messages mysite.asgi"
    )


def test_output_is_compared_but_for_figures():
    shown = ["mysite   12 messages, 1.5 s old", "of 1.0 MiB", "of ..."]
    assert missing_lines(shown, "of 7 KiB\nt1 7,000 messages, 3 ms old\nof all\n", "t1") == []
    assert missing_lines(shown, "of 7 KiB\nt2 7 messages, 1 s old\nof all\n", "t1") == shown[:1]
    assert missing_lines(shown, "t1 7 messages, 1 s old\nof 7 things\n", "t1") == shown[1:2]
    assert missing_lines(["waited for 0 times"], "waited for 1 time\n", "t1") == []


COMPOSE = """\
services:
  web: {image: a, ipc: shareable, shm_size: 1mb}
  worker: {image: a, ipc: 'service:web'}
"""
POD = """\
apiVersion: v1
kind: Pod
metadata: {name: a}
spec:
  containers: [{name: a, volumeMounts: [{name: m, mountPath: /dev/shm}]}]
  volumes: [{name: m, emptyDir: {medium: Memory, sizeLimit: 1Mi}}]
"""
UNIT = """\
# /etc/systemd/system/a.service
[Service]
User=a
WorkingDirectory=/
ExecStart=/bin/true
Restart=always
"""
DOCKERFILE = "FROM a\nRUN b \\\n  c\n# d\nCMD e\n"


@pytest.mark.parametrize(
    "language, good, old, new",
    [
        ("yaml", COMPOSE, "shareable", "private"),
        ("yaml", COMPOSE, "shm_size", "shm"),
        ("yaml", COMPOSE, "service:web", "service:c"),
        ("yaml", COMPOSE, "services", "service"),
        ("yaml", COMPOSE, "}", "]"),
        ("yaml", POD, "medium: Memory", "medium: ''"),
        ("yaml", POD, "/dev/shm", "/dev/shared"),
        ("yaml", POD, "1Mi", "1"),
        ("ini", UNIT, "[Service]", "[Services]"),
        ("ini", UNIT, "Restart=always", "Restart=always\nTemporaryFileSystem=/dev/shm"),
        ("ini", UNIT, "User=a\n", ""),
        ("ini", UNIT, "[Service]", ""),
        ("dockerfile", DOCKERFILE, "RUN", "RNU"),
        ("dockerfile", DOCKERFILE, "FROM a\n", ""),
    ],
)
def test_the_checks_notice_what_is_wrong(language, good, old, new):
    CHECKS[language](good)
    assert old in good
    with pytest.raises(Exception):  # noqa: B017 (of whichever parser)
        CHECKS[language](good.replace(old, new))


@pytest.mark.parametrize("page", [page for page in pages() if page != "README.rst"])
def test_no_page_has_contents_of_its_own(page):
    """The theme shows them beside each page, and puts an error in place of any others."""
    with open(os.path.join(PROJECT, page), encoding="utf-8") as stream:
        assert not re.search(r"^\s*\.\. contents::", stream.read(), re.MULTILINE)
