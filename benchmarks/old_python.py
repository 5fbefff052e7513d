"""A Python 3.7 with the published releases, made on first use and kept in a cache folder.

The releases are installed by pip from the package index, never copied. What is kept is made
anew when the list of packages below changes.
"""
import glob
import os
import shutil
import subprocess

from benchmarks.session import ROOT

FOLDER = os.path.join(ROOT, ".tox", "bench-old")
PACKAGES = (
    "asgi_ipc==1.4.2",
    "msgpack-python==0.5.6",
    "posix_ipc==1.1.1",
    "asgi_redis==1.4.3",
    "redis==2.10.6",
    "asgiref==1.1.2",
    "six==1.16.0",
)
MARK = "benchmark-packages.txt"


class OldPythonMissing(Exception):
    """There is no Python 3.7, or pip could not install the releases; the text says which."""


def find_python37():
    """The path of a Python 3.7 that runs, or None: on PATH, or one of pyenv's."""
    root = os.environ.get("PYENV_ROOT") or os.path.expanduser("~/.pyenv")
    candidates = [shutil.which("python3.7")]
    candidates += sorted(glob.glob(os.path.join(root, "versions", "3.7.*", "bin", "python3.7")))
    for candidate in candidates:
        if candidate and _runs(candidate):
            return candidate
    return None


def _runs(program):
    """Whether it is more than a stand-in that says that the version is not switched on."""
    command = [program, "-c", "import sys; print(sys.version_info[:2] == (3, 7))"]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return result.stdout.strip() == b"True"


def interpreter(say, folder=FOLDER):
    """The path of a Python 3.7 that has the published releases.

    :param say: called with a sentence if it has to be made, which takes half a minute.
    :raises OldPythonMissing: it cannot be made.
    """
    python = os.path.join(folder, "bin", "python")
    mark = os.path.join(folder, MARK)
    wanted = "\n".join(PACKAGES)
    if os.path.exists(mark):
        with open(mark) as stream:
            if stream.read() == wanted and _runs(python):
                return python
    found = find_python37()
    if found is None:
        raise OldPythonMissing("there is no Python 3.7 on PATH or in pyenv")
    say("making an environment of Python 3.7 with the published releases in " + folder)
    shutil.rmtree(folder, ignore_errors=True)
    _run([found, "-m", "venv", folder])
    _run([python, "-m", "pip", "install", "--quiet", *PACKAGES])
    with open(mark, "w") as stream:
        stream.write(wanted)
    return python


def _run(command):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    result = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, check=False
    )
    if result.returncode:
        text = result.stdout.decode("utf-8", "replace").strip()
        raise OldPythonMissing("{0} failed: {1}".format(" ".join(command), text[-500:]))
