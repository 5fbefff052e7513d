"""What can be said of a YAML or ini file without the program that reads it.

Each check raises AssertionError with what is wrong. Must not run anything.
"""
import configparser
import re

import yaml

SHARED = "/dev/shm"
SIZE = re.compile(r"[1-9]\d*(k|m|g|kb|mb|gb)?$")
QUANTITY = re.compile(r"[1-9]\d*(Mi|Gi)$")

UNIT_KEYS = {
    "Unit": {"Description", "Requires", "After", "Wants", "PartOf"},
    "Service": {
        "Environment", "EnvironmentFile", "ExecStart", "Group", "KillMode", "Restart",
        "RestartSec", "Sockets", "Type", "User", "WorkingDirectory",
    },
    "Socket": {"ListenStream", "NoDelay"},
    "Install": {"WantedBy"},
}
"""What our units may say: none of TemporaryFileSystem=, DynamicUser= and RemoveIPC= is there."""


def check_yaml(text):
    """A Compose file, or an object of Kubernetes, whose containers share ``/dev/shm``."""
    documents = [document for document in yaml.safe_load_all(text) if document is not None]
    assert documents, "nothing is in it"
    for document in documents:
        if "services" in document:
            _check_compose(document["services"])
        elif "kind" in document:
            _check_kubernetes(document)
        else:
            raise AssertionError(f"no check for YAML with {sorted(document)}")


def _check_compose(services):
    givers = {name for name, service in services.items() if service.get("ipc") == "shareable"}
    assert givers or len(services) == 1, "nobody offers its memory (ipc: shareable)"
    for name, service in services.items():
        if name in givers or len(services) == 1:
            size = str(service.get("shm_size"))
            assert SIZE.match(size), f"{name}: shm_size is {size}"
        else:
            ipc = service.get("ipc", "")
            kind, _, giver = ipc.partition(":")
            assert kind == "service" and giver in givers, f"{name}: ipc is {ipc!r}"
        assert service.get("image") or service.get("build"), f"{name}: nothing to run"


def _check_kubernetes(resource):
    assert resource.get("apiVersion"), "no apiVersion"
    assert resource["metadata"]["name"], "no name"
    pod = resource["spec"] if resource["kind"] == "Pod" else resource["spec"]["template"]["spec"]
    memory = {
        volume["name"]
        for volume in pod.get("volumes", [])
        if volume.get("emptyDir", {}).get("medium") == "Memory"
    }
    assert memory, "no volume of medium Memory"
    for volume in pod["volumes"]:
        if volume["name"] in memory:
            size = volume["emptyDir"].get("sizeLimit", "")
            assert QUANTITY.match(size), f"sizeLimit is {size!r}"
    for container in pod["containers"]:
        mounts = {mount["mountPath"]: mount["name"] for mount in container.get("volumeMounts", [])}
        assert mounts.get(SHARED) in memory, f"{container['name']} mounts none at {SHARED}"


def parse_ini(text):
    """The sections of an ini file or a unit of systemd."""
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read_string(text)
    assert parser.sections(), "no section is in it"
    return parser


def unit_name(text):
    """The file name of a unit of systemd, which its first line says; None if it is none."""
    found = re.match(r"# /etc/systemd/system/([\w@.-]+\.(?:service|socket))$", text, re.MULTILINE)
    return found and found.group(1)


def check_unit(text):
    """A unit of systemd with nothing in it that would keep processes apart."""
    unit = parse_ini(text)
    for section in unit.sections():
        assert section in UNIT_KEYS, f"no section of a unit: {section}"
        unknown = set(unit[section]) - UNIT_KEYS[section]
        assert not unknown, f"[{section}]: {sorted(unknown)}"
    if unit_name(text).endswith(".service"):
        for key in ("User", "WorkingDirectory", "ExecStart", "Restart"):
            assert unit["Service"].get(key), f"no {key}"
    else:
        assert unit["Socket"].get("ListenStream"), "no ListenStream"


def check_ini(text):
    """Any ini file; units of systemd more closely."""
    if unit_name(text):
        check_unit(text)
    else:
        parse_ini(text)


DOCKER = {
    "ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL",
    "ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR",
}


def check_dockerfile(text):
    """Each instruction begins with a word that is one, and the first is FROM (or ARG)."""
    joined = re.sub(r"\\\n", " ", text)
    lines = [line for line in joined.splitlines() if line.strip() and not line.startswith("#")]
    words = [line.split()[0] for line in lines]
    assert words, "nothing is in it"
    assert words[0] in ("FROM", "ARG"), f"it begins with {words[0]}"
    unknown = [word for word in words if word not in DOCKER]
    assert not unknown, f"no instructions: {unknown}"


CHECKS = {"yaml": check_yaml, "ini": check_ini, "dockerfile": check_dockerfile}
"""By the language of a block."""
