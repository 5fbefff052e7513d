"""Each block and command of the documents and of README.rst is run, or listed with a reason."""
import re
import shlex

import pytest
from checks import CHECKS, unit_name
from docblocks import PROMPT, blocks, commands_of, pages
from listed import (
    BLOCKS,
    COMMANDS,
    OUTPUTS,
    PAGES,
    TUTORIAL,
    reason_for_block,
    reason_for_command,
    reason_for_output,
)
from runkit import (
    ENDLESS,
    MEMBERS,
    Site,
    assert_known,
    command_with_prefix,
    missing_lines,
    missing_programs,
    run_command,
    run_python,
    run_settings,
    subcommands,
)

ALL = blocks()
"""Every block of every page."""

FIRST_WORDS = ("$", "asgi-ipc", "pip", "python", "python3")
"""What a literal block begins with that shows commands."""


def has_commands(block):
    if block.language is None:
        return block.text.split()[0] in FIRST_WORDS
    return block.language == "console"


WITH_COMMANDS = [block for block in ALL if has_commands(block)]
CODE = [block for block in ALL if not has_commands(block) and block.page != TUTORIAL]


def is_run_here(command):
    """The tutorial's are run in their order elsewhere; those of ours here as well, one by one."""
    if command.block.page == TUTORIAL:
        return command.text.startswith("asgi-ipc ") or reason_for_command(command)
    return command.block.page not in PAGES


ALL_COMMANDS = [command for block in WITH_COMMANDS for command in commands_of(block)]


def is_settings(block):
    return re.search(r"^[A-Z_]+ = ", block.text, re.MULTILINE) and "import" not in block.text


@pytest.mark.parametrize(
    "block",
    [block for block in CODE if block.page not in PAGES],
    ids=lambda block: f"{block.name}-{block.language}",
)
def test_block(block, prefix, tmp_path):
    reason = reason_for_block(block)
    if reason:
        pytest.skip(f"{block.name}: {reason}")
    if block.language in CHECKS:
        CHECKS[block.language](block.text)
        return
    assert block.language == "python", f"{block.name}: no test for it; list it with a reason"
    if is_settings(block):
        check_settings(block, tmp_path, run_settings(block.text, tmp_path, prefix))
    else:
        output = run_python(block.text, tmp_path, prefix)
        if "print(" in block.text:
            assert output.strip()
            assert "None" not in output


FINE = re.compile(
    r"\w+: (asgi_ipc\S+ carries messages|channels_redis\S+ is another package's|configured)"
)


def check_settings(block, folder, output):
    lines = output.splitlines()
    assert lines, "no layer is in it, and no logging"
    assert [line for line in lines if not FINE.fullmatch(line)] == []
    if "LOGGING" in block.text:
        logs = [path.read_text() for path in folder.glob("*.log")]
        assert any("a warning of the layer" in log for log in logs)


@pytest.mark.parametrize(
    "command",
    [command for command in ALL_COMMANDS if is_run_here(command)],
    ids=lambda command: command.name,
)
def test_command(command, prefix, tmp_path):
    reason = reason_for_command(command)
    if reason:
        pytest.skip(f"{command.name}: {reason}")
    skip_if_it_cannot_run(command)
    with Site(prefix, **names_in(command.text)) as site:
        # What is shown of the output is that of a site that runs.
        if command.output:
            site.start(tmp_path)
        status, output = run_command(command_with_prefix(command.text, prefix), tmp_path)
    assert status in allowed_statuses(command), output
    assert "Traceback" not in output
    if not reason_for_output(command):
        assert missing_lines(command.output, output, prefix) == [], output


def allowed_statuses(command):
    if re.match(r"asgi-ipc [\w-]+: ", "".join(command.output[:1])):
        return (1,)  # what is shown is an error
    if command.text.startswith("asgi-ipc doctor"):
        return (0, 1)  # 1 if it finds something, and this machine may have something
    if ENDLESS.match(command.text) and "|" in command.text:
        return (0, 130)  # Ctrl-C ends the rest of the line as well
    return (0,)


def skip_if_it_cannot_run(command):
    missing = missing_programs(command.text)
    if missing:
        pytest.skip(f"{command.name}: not on this machine: {', '.join(missing)}")
    names = re.findall(r"(?:asgi-ipc|-m asgi_ipc) ([a-z][\w-]*)", command.text)
    assert_known(subcommands(), names, command.name)


def names_in(text):
    """What has to be in the prefix for ``asgi-ipc COMMAND PREFIX NAME...`` to find it."""
    words = shlex.split(text.partition("|")[0], comments=True)
    name = words[1] if words[:1] == ["asgi-ipc"] else None
    names = [word for word in words[3:] if re.fullmatch(r"[a-z][\w.!-]*", word)]
    if name in ("peek", "receive"):
        return {"channels": names}
    if name in ("groups", "group-send"):
        return {"groups": set(names[:1]) - set(MEMBERS)}
    return {}


# -- nothing is left out, and nothing is listed in vain ------------------------------------


def test_a_console_begins_with_a_prompt():
    """So that what is copied from the page is commands, and the rest is what they print."""
    consoles = [block for block in WITH_COMMANDS if block.language == "console"]
    assert consoles
    assert [block.name for block in consoles if not block.text.startswith(PROMPT)] == []


@pytest.mark.parametrize("entry", BLOCKS, ids=lambda entry: entry.pattern)
def test_what_is_listed_is_there(entry):
    skip_if_its_page_is_not_there(entry)
    assert [block for block in CODE if entry.covers(block.page, block.text)]


@pytest.mark.parametrize("entry", COMMANDS + OUTPUTS, ids=lambda entry: entry.pattern)
def test_the_commands_that_are_listed_are_there(entry):
    skip_if_its_page_is_not_there(entry)
    assert [command for command in ALL_COMMANDS if entry.covers(command.block.page, command.text)]


def skip_if_its_page_is_not_there(entry):
    if not any(re.fullmatch(entry.page, page) for page in pages()):
        pytest.skip(f"{entry.page} is not there")


@pytest.mark.parametrize("page", sorted(PAGES))
def test_a_page_with_tests_of_its_own_has_them(page, request):
    if page not in {block.page for block in ALL}:
        pytest.skip(f"{page} is not there")
    text = (request.config.rootpath / PAGES[page]).read_text(encoding="utf-8")
    assert page.rpartition("/")[2] in text


def test_units_are_those_that_systemd_takes(tmp_path):
    """As far as ``systemd-analyze verify`` can tell, with other programs in the place of ours."""
    if missing_programs("systemd-analyze"):
        pytest.skip("systemd-analyze is not on this machine")
    units = [block.text for block in ALL if block.language == "ini" and unit_name(block.text)]
    paths = [tmp_path / unit_name(text) for text in units]
    for path, text in zip(paths, units, strict=True):
        path.write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE))
    assert len(set(paths)) == len(units) > 1
    status, output = run_command(f"systemd-analyze verify {shlex.join(map(str, paths))}", tmp_path)
    of_ours = [line for line in output.splitlines() if str(tmp_path) in line]
    assert (status, of_ours) == (0, []), output
