"""Finds the code blocks and literal blocks of the documents, and the commands in them.

Knows the part of reStructuredText that our pages use. Must not know what is done with a block.
Whether it finds all that Sphinx finds is a test.
"""
import dataclasses
import functools
import glob
import os
import re
import textwrap

PROJECT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

DIRECTIVE = re.compile(r"( *)\.\. (?:code-block|code|sourcecode)::(?: +(\S+))? *$")
OPTION = re.compile(r" +:([\w-]+):(?: +(.*))?$")
LITERAL = re.compile(r"( *)(?!\.\. )(?:.*\S)?::$")
UNDERLINE = re.compile(r"([=~-])\1{2,}$")
PROMPT = "$ "


@dataclasses.dataclass(frozen=True)
class Block:
    """One block: ``language`` is None for a literal block, which begins after ``::``."""

    page: str
    line: int
    language: str | None
    caption: str | None
    section: str
    text: str

    @property
    def name(self):
        return f"{self.page}:{self.line}"


@dataclasses.dataclass(frozen=True)
class Command:
    """A line for a shell, and the lines that are shown as what it prints."""

    block: Block
    line: int
    text: str
    output: tuple[str, ...]

    @property
    def name(self):
        return f"{self.block.page}:{self.line}: {self.text}"


def pages():
    """Paths of all documents, within the project."""
    found = glob.glob(os.path.join(PROJECT, "docs", "**", "*.rst"), recursive=True)
    return ["README.rst", *sorted(os.path.relpath(path, PROJECT) for path in found)]


@functools.cache
def blocks_of(page):
    with open(os.path.join(PROJECT, page), encoding="utf-8") as stream:
        return list(find(page, stream.read()))


def blocks():
    """All blocks of all documents."""
    return [block for page in pages() for block in blocks_of(page)]


def find(page, text):
    """The blocks in a text."""
    lines = text.splitlines()
    section = ""
    number = 0
    while number < len(lines):
        line = lines[number]
        if number and UNDERLINE.match(line) and len(line) >= len(lines[number - 1]) > 0:
            section = lines[number - 1]
        start = DIRECTIVE.match(line) or LITERAL.match(line)
        number += 1
        if start is None:
            continue
        is_directive = start.re is DIRECTIVE
        options = {}
        while is_directive and number < len(lines) and OPTION.match(lines[number]):
            options.update([OPTION.match(lines[number]).groups()])
            number += 1
        first, number = _content(lines, number, len(start.group(1)))
        if first == number:
            continue
        content = textwrap.dedent("\n".join(lines[first:number])).rstrip() + "\n"
        language = (start.group(2) or "none") if is_directive else None
        yield Block(page, first + 1, language, options.get("caption"), section, content)


def _content(lines, number, indentation):
    """Numbers of the first line that is indented by more, and of the one after the last."""
    while number < len(lines) and not lines[number].strip():
        number += 1
    first = end = number
    while number < len(lines):
        line = lines[number]
        if line.strip():
            if len(line) - len(line.lstrip()) <= indentation:
                break
            end = number + 1
        number += 1
    return first, end


def commands_of(block):
    """The commands of a console block, or of a literal block that consists of commands."""
    lines = block.text.splitlines()
    has_prompts = any(line.startswith(PROMPT) for line in lines)
    found = []
    number = 0
    while number < len(lines):
        line = lines[number]
        if has_prompts and not line.startswith(PROMPT):
            if found:
                found[-1][2].append(line)
            number += 1
            continue
        text, at = line.removeprefix(PROMPT), number
        while text.endswith("\\"):
            number += 1
            text = text[:-1].rstrip() + " " + lines[number].removeprefix("> ").strip()
        number += 1
        if text:
            found.append((at, text, []))
    return [
        Command(block, block.line + at, text, tuple(line for line in output if line.strip()))
        for at, text, output in found
    ]
