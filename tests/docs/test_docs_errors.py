"""docs/troubleshooting.rst goes by the text of errors: those that the package really has."""
import ast
import functools
import glob
import os
import re
import string

import pytest
from docblocks import PROJECT

PAGE = os.path.join(PROJECT, "docs", "troubleshooting.rst")
TERM = re.compile(r"^``.*``(?=\n    \S)", re.MULTILINE)
ITEM = re.compile(r"^    \* (``.*?``):", re.MULTILINE)
LITERAL = re.compile(r"``(.+?)``")
VARIABLE = "\0"
PERCENT = re.compile(r"%(?:\(\w+\))?[-+ #0-9.]*[sdrfgx]")


def headings():
    """The texts of errors in the page: the terms of its lists, and the items within some."""
    with open(PAGE, encoding="utf-8") as stream:
        page = stream.read()
    found = TERM.findall(page) + ITEM.findall(page)
    return [text for line in found for text in LITERAL.findall(line)]


def text_of(node, constants):
    """The text of an expression made of literals, with its variable parts; None if it is none.

    :param constants: name -> text, of the module.
    """
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return with_variables(node.value)
    if isinstance(node, ast.Name):
        return constants.get(node.id)
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part, constants) or VARIABLE for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        sides = (node.left, node.right)
        return "".join(text_of(side, constants) or VARIABLE for side in sides)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
        return filled(text_of(node.left, constants), node.right, constants)
    return None


def filled(text, values, constants):
    """The text of ``text % values``, as far as the values are texts of the module."""
    if text is None:
        return None
    first, *rest = text.split(VARIABLE)
    nodes = values.elts if isinstance(values, ast.Tuple) else [values]
    for part, node in zip(rest, nodes, strict=False):
        first += (text_of(node, constants) or VARIABLE) + part
    return first


def with_variables(text):
    """A text whose ``{0}`` and ``%s`` are replaced by VARIABLE."""
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError:
        parts = [(text, None, None, None)]
    joined = "".join(words + ("" if field is None else VARIABLE) for words, field, _, _ in parts)
    return PERCENT.sub(VARIABLE, joined)


@functools.cache
def texts():
    """All texts in the source of the package, other than docstrings."""
    found = set()
    pattern = os.path.join(PROJECT, "asgi_ipc", "**", "*.py")
    for path in glob.glob(pattern, recursive=True):
        with open(path, encoding="utf-8") as stream:
            tree = ast.parse(stream.read())
        constants = {}
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                constants[node.targets[0].id] = text_of(node.value, constants)
        documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        found.update(
            text_of(node, constants) for node in ast.walk(tree) if id(node) not in documents
        )
    return found - {None}


def is_in(heading, text):
    """Whether the parts of a heading are in a text, in order, with something between them."""
    parts = [part for part in heading.split("...") if part.strip()]
    return re.search(".+?".join(re.escape(part) for part in parts), text, re.DOTALL) is not None


def test_there_are_headings():
    assert len(headings()) > 20
    assert len(set(headings())) == len(headings())


@pytest.mark.parametrize("heading", headings())
def test_heading_is_the_text_of_an_error(heading):
    assert any(is_in(heading, text) for text in texts())


@pytest.mark.parametrize(
    "heading, text",
    [
        ("the channel ... is full", "the channel \0 was full"),
        ("... is full", "full is \0"),
        ("it holds ... messages", "it holds messages"),
    ],
)
def test_a_heading_that_no_error_has_is_noticed(heading, text):
    assert not is_in(heading, text)


# -- and all that a site can meet ----------------------------------------------------------

OTHERS = {
    "apps", "attached", "checks", "cli", "census", "copies", "demo", "existing", "figures",
    "fixtures", "machine", "overview", "prometheus", "testing",
}
"""Modules of tools: what they say is in docs/commands.rst and docs/integrations.rst."""

RAISED = {
    "ChannelFull", "GroupsFull", "LayerClosed", "LockTimeout", "MessageTooLarge", "ReentrantCall",
    "SegmentError", "TypeError", "ValueError",
}
RETURNING = {"codec", "opening", "sending"}
"""Modules in which functions return the texts that others raise."""

NOT_MET = {
    # Names are checked before they get there.
    "a name has 1 to \0 bytes, none of them NUL: \0",
    # Parts of texts.
    "the key \0: \0",
    "the semaphore of \0",
}
LEAST_WORDS = 4


def said():
    """(module, text) of each error, warning and log entry that the layers can give."""
    for path in sorted(glob.glob(os.path.join(PROJECT, "asgi_ipc", "**", "*.py"), recursive=True)):
        module = os.path.splitext(os.path.basename(path))[0]
        if module in OTHERS or os.path.basename(os.path.dirname(path)) == "commands":
            continue
        with open(path, encoding="utf-8") as stream:
            tree = ast.parse(stream.read())
        constants = {}
        for node in tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                constants[node.targets[0].id] = text_of(node.value, constants)
        for node in ast.walk(tree):
            if tells(node, module):
                found = [text_of(part, constants) for part in ast.walk(node)]
                text = max((text for text in found if text), key=len, default="")
                if len(text.split()) >= LEAST_WORDS and text not in NOT_MET:
                    yield module, text


def tells(node, module):
    """Whether a statement or call gives a text to whoever uses the layer."""
    if isinstance(node, ast.Raise):
        name = getattr(node.exc, "func", None)
        return getattr(name, "attr", getattr(name, "id", None)) in RAISED
    if isinstance(node, ast.Call):
        return ast.unparse(node.func) in (
            "logger.warning", "logger.error", "self._trouble.append", "warnings.warn"
        )
    return isinstance(node, ast.Return) and module in RETURNING


SAID = sorted(set(said()))


def test_much_is_said():
    assert len(SAID) > 50


@pytest.mark.parametrize("module, text", SAID, ids=lambda value: value.replace("\0", "...")[:50])
def test_every_text_is_under_a_heading(module, text):
    assert any(is_in(heading, text) for heading in headings()), f"{module}: {text!r}"
