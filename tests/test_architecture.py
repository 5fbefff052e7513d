"""Imports go one way, and the core stands on three packages."""
import ast
import os
import subprocess
import sys

import pytest

import asgi_ipc

FOLDER = os.path.dirname(os.path.abspath(asgi_ipc.__file__))
STORE = [
    "census",
    "crossing",
    "directory",
    "figures",
    "group_cells",
    "group_check",
    "groups",
    "guarded",
    "integrity",
    "layout",
    "log",
    "memberships",
    "messages",
    "outbox",
    "parts",
    "records",
    "ring",
    "sending",
    "statistics",
    "waiters",
    "waiting",
]
"""Modules below the faces: they must know neither face, nor what both share above them."""

ABOVE_STORE = {
    "core", "aio", "copies", "process", "inbox", "loops", "watch", "sleepers", "gate", "cli",
    "stores", "reactor", "routes", "routing", "options", "drops", "overview", "__main__",
    "existing", "prometheus", "bridge", "testing", "fixtures", "apps", "checks", "access",
    "attached", "machine", "commands",
}  # fmt: skip
OUTSIDE = {"posix_ipc", "msgpack", "six"}
LIBRARY = {
    "__future__", "abc", "argparse", "array", "asyncio", "atexit", "base64", "binascii",
    "collections", "concurrent", "contextlib", "contextvars", "copy", "ctypes", "datetime",
    "errno", "fcntl", "fnmatch", "functools", "gc", "getopt", "grp", "hashlib", "heapq", "hmac",
    "importlib", "inspect", "io", "itertools", "json", "logging", "math", "mmap", "operator",
    "optparse", "os", "pkgutil", "platform", "pwd", "random", "re", "resource", "select",
    "selectors", "shutil", "signal", "stat", "string", "struct", "subprocess", "sys", "tempfile",
    "termios", "textwrap", "threading", "time", "traceback", "tty", "typing", "uuid", "warnings",
    "weakref", "zlib",
}  # fmt: skip
OPTIONAL = {
    "reactor": {"twisted"},
    "aio": {"channels"},
    "apps": {"django"},
    "bridge.envelope": {"cryptography"},
    "bridge.link": {"redis"},
    "checks": {"channels", "django"},
    "cli": {"argcomplete"},
    "errors": {"asgiref"},
    "commands.screen": {"rich"},
    "fixtures": {"pytest"},
    "prometheus": {"prometheus_client"},
    "testing": {"channels", "django"},
}
"""What a module may import beyond: inside of a function, or because who imports it has that."""

COMMAND_LINE = {"cli", "__main__", "access", "attached", "machine"}
"""With all of ``commands``, what is for people at a shell, and nothing that works needs."""

ASYNCHRONOUS = ["process", "inbox", "loops", "watch", "sleepers", "gate"]
"""What lies below the asynchronous face, the upper ones first."""

MODULES = sorted(
    os.path.relpath(os.path.join(folder, name), FOLDER)[:-3].replace(os.sep, ".")
    for folder, _, names in os.walk(FOLDER)
    for name in names
    if name.endswith(".py")
)

BRIDGE = [name for name in MODULES if name.startswith("bridge")]
"""A program of its own."""

NEW = ["aio", "copies"] + ASYNCHRONOUS + BRIDGE
"""What is for Python 3.8 and later."""


def is_command_line(module):
    """Whether a module is for people at a shell."""
    return module in COMMAND_LINE or module.startswith("commands")


def tree_of(module):
    with open(os.path.join(FOLDER, *module.split(".")) + ".py", "rb") as source:
        return ast.parse(source.read())


def parsed(module):
    try:
        return tree_of(module)
    except SyntaxError:
        # The asynchronous face is newer than the Python that runs this.
        if module not in NEW or sys.version_info >= (3, 8):
            raise
        pytest.skip("{0} is not for this Python".format(module))


def imports(module):
    """Full names of all that a module imports, inside of functions as well."""
    found = set()
    for node in ast.walk(parsed(module)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "{0} imports relatively".format(module)
            found.add(node.module)
            found.update(node.module + "." + alias.name for alias in node.names)
    return found


def own(module):
    """The same, of this package only, without its name in front."""
    return {
        name[len("asgi_ipc.") :] for name in imports(module) if name.startswith("asgi_ipc.")
    }


def test_the_modules_are_found():
    assert {"core", "messages", "_shm.lock"} <= set(MODULES)
    assert set(STORE) <= set(MODULES)
    assert {"log", "directory"} <= own("parts")


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("_shm")])
def test_shm_knows_nothing_above_it(module):
    for name in own(module):
        assert name.split(".")[0] in ("_shm", "errors"), name
    assert "asgi_ipc" not in imports(module) or module == "_shm.__init__"


@pytest.mark.parametrize("module", STORE)
def test_the_store_knows_no_face(module):
    assert not {name.split(".")[0] for name in own(module)} & ABOVE_STORE
    assert "codec" not in own(module)


@pytest.mark.parametrize("module", ["core", "aio"])
def test_the_faces_do_not_know_each_other(module):
    if module not in MODULES:
        pytest.skip("there is no {0}".format(module))
    other = {"core": "aio", "aio": "core"}[module]
    assert other not in {name.split(".")[0] for name in own(module)}


@pytest.mark.parametrize("module", ASYNCHRONOUS)
def test_the_asynchronous_face_in_layers(module):
    above = {"core", "aio", "codec", "names"} | set(ASYNCHRONOUS[: ASYNCHRONOUS.index(module)])
    assert not {name.split(".")[0] for name in own(module)} & (above - typed_only(module))


def typed_only(module):
    """What a module imports for its annotations alone, under ``if TYPE_CHECKING``."""
    return {
        node.module.split(".")[1]
        for test in ast.walk(parsed(module))
        if isinstance(test, ast.If) and getattr(test.test, "id", None) == "TYPE_CHECKING"
        for node in test.body
        if isinstance(node, ast.ImportFrom) and node.module.startswith("asgi_ipc.")
    }


@pytest.mark.parametrize("module", [name for name in MODULES if not is_command_line(name)])
def test_nothing_knows_the_command_line(module):
    roots = {name.split(".")[0] for name in own(module)}
    assert not roots & {"cli", "commands", "access", "attached", "machine"}


@pytest.mark.parametrize("module", MODULES)
def test_nobody_else_knows_channels(module):
    if module not in ("aio", "checks", "testing"):
        assert "channels" not in {name.split(".")[0] for name in imports(module)}
    if module not in ("aio", "fixtures"):
        assert "aio" not in {name.split(".")[0] for name in own(module)}


@pytest.mark.parametrize("module", MODULES)
def test_one_module_has_asynchronous_syntax(module):
    kinds = {type(node).__name__ for node in ast.walk(parsed(module))}
    if module not in BRIDGE:
        assert bool(kinds & {"AsyncFunctionDef", "Await"}) == (module == "aio")


@pytest.mark.parametrize("module", [name for name in MODULES if name not in BRIDGE])
def test_the_bridge_is_known_to_its_command_alone(module):
    known = "bridge" in {name.split(".")[0] for name in own(module)}
    assert known == (module == "commands.bridge")


@pytest.mark.parametrize("module", BRIDGE)
def test_the_bridge_knows_stores_and_neither_face(module):
    roots = {name.split(".")[0] for name in own(module)}
    assert not roots & {"core", "aio", "process", "watch", "codec"}


def may_print(module):
    """The command line: who else has something to say, says it to the log."""
    return module == "demo" or is_command_line(module)


def prints(module):
    """The lines of a module that write to the standard streams."""
    return [
        node.lineno
        for node in ast.walk(parsed(module))
        if (isinstance(node, ast.Name) and node.id in ("print", "stdout", "stderr"))
        or (isinstance(node, ast.Attribute) and node.attr in ("stdout", "stderr", "__stderr__"))
        or type(node).__name__ == "Print"
    ]


@pytest.mark.parametrize("module", [name for name in MODULES if not may_print(name)])
def test_nothing_is_printed_but_by_commands(module):
    assert prints(module) == []


def test_the_commands_are_seen_to_print():
    assert prints("cli")


@pytest.mark.parametrize("module", MODULES)
def test_there_is_one_logger(module):
    names = [
        node.args[0]
        for node in ast.walk(parsed(module))
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "getLogger"
    ]
    assert {ast.literal_eval(name) for name in names} <= {"asgi_ipc"}


def test_errors_know_nothing():
    assert own("errors") == set()


@pytest.mark.parametrize("module", MODULES)
def test_nothing_beyond_the_library_and_three_packages(module):
    roots = {name.split(".")[0] for name in imports(module)} - {"asgi_ipc"}
    assert roots - LIBRARY - OUTSIDE - OPTIONAL.get(module, set()) == set()


@pytest.mark.parametrize("module", [name for name in MODULES if name != "codec"])
def test_only_the_codec_knows_msgpack(module):
    assert "msgpack" not in {name.split(".")[0] for name in imports(module)}


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_pickled(module):
    roots = {name.split(".")[0] for name in imports(module)}
    assert not roots & {"pickle", "cPickle", "marshal", "shelve"}


@pytest.mark.parametrize("module", ["asgi_ipc", "asgi_ipc.testing"])
def test_what_an_import_loads(module):
    """Importing is cheap: nothing that only some need, and nothing of the frameworks."""
    unwanted = {"twisted", "channels", "django", "asyncio", "pkg_resources", "pytest"}
    if sys.version_info >= (3, 7):
        unwanted.add("ctypes")
    # Python 2.7 keeps None for what a package looked for in itself and did not find.
    script = "import {0}, sys; print('\\n'.join(n for n in sys.modules if sys.modules[n]))"
    script = script.format(module)
    environment = dict(os.environ, PYTHONPATH=os.path.dirname(FOLDER))
    loaded = subprocess.check_output([sys.executable, "-c", script], env=environment)
    names = loaded.decode().split()
    assert {name.split(".")[0] for name in names} & unwanted == set()
    # Two exceptions are classes of asgiref 1 as well, where that is installed.
    of_asgiref = {name for name in names if name.split(".")[0] == "asgiref"}
    assert of_asgiref <= {"asgiref", "asgiref.base_layer"}
    assert "posix_ipc" in names


TRIES = tuple(
    getattr(ast, name) for name in ("Try", "TryExcept", "TryFinally") if hasattr(ast, name)
)


def guarded_by_the_lock(module):
    """The ``try`` statements of which a handler abandons the lock."""
    for node in ast.walk(parsed(module)):
        handlers = getattr(node, "handlers", ())
        if any("attr='abandon'" in ast.dump(handler) for handler in handlers):
            yield node


@pytest.mark.parametrize("module", MODULES)
def test_no_try_within_what_the_lock_guards(module):
    """CPython 3.11 leaves the first step of an inner one out of the outer one's reach."""
    for node in guarded_by_the_lock(module):
        within = [one for part in node.body for one in ast.walk(part)]
        inner = [one.lineno for one in within if isinstance(one, TRIES)]
        assert inner == [], "line {0}".format(node.lineno)


def test_what_the_lock_guards_is_found():
    found = {module for module in STORE if list(guarded_by_the_lock(module))}
    assert {"guarded", "messages", "sending"} <= found
