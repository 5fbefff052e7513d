"""``doctor``: what is wrong on this machine, or will be, and what to do about it."""
from asgi_ipc import access, machine
from asgi_ipc.commands import findings, machine_checks, output, prefix_checks

ABOUT = """\
Looks for what is wrong, or will be: space in /dev/shm, limits of this shell, versions, permissions,
what processes left that died, a lock held by a process that is stopped. Each finding is ok, a
note, a warning or an error, and says what to do. Without a PREFIX it looks at all there are.

It reads files and headers, attaches nothing and takes no lock: it has an answer also where all
others hang. It removes nothing; the commands that do are named.

    asgi-ipc doctor
    asgi-ipc doctor mysite
    asgi-ipc doctor --json

Exit status: 0; 1 if one of the findings is an error.
"""


def register(commands):
    """Add the command to the command line."""
    command = commands.add("doctor", run, "find what is wrong, and the remedy", ABOUT, json=True)
    command.add_argument(
        "prefix", metavar="PREFIX", nargs="?", help="look at this prefix only (default: all)"
    )


def run(arguments):
    """Run ``doctor``."""
    everything = [machine.Place(name) for name in machine.prefixes() or ()]
    places = everything = [place for place in everything if place.there]
    if arguments.prefix is not None:
        places = [machine.Place(access.checked(arguments.prefix))]
    found = machine_checks.findings(everything)
    for place in places:
        found += prefix_checks.findings(place)
    if arguments.json:
        output.emit([dict(one._asdict()) for one in found])
    else:
        _print(found)
    return 1 if any(one.level == findings.ERROR for one in found) else 0


def _print(found):
    width = max(len(level) for level in findings.LEVELS)
    for one in found:
        output.say(u"{0}  {1}: {2}".format(one.level.ljust(width), one.subject, one.text))
        if one.remedy:
            output.say(u"{0}  -> {1}".format(" " * width, one.remedy))
    counts = [(level, sum(one.level == level for one in found)) for level in findings.LEVELS[1:]]
    said = [output.count(number, level) for level, number in counts if number]
    output.say("\n" + (", ".join(said) if said else "all is well"))
