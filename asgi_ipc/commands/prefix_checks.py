"""What ``doctor`` looks at in one prefix: both halves, whose they are, who is there, the lock.

Reads the status of files and the headers of segments; attaches nothing and takes no lock, so that
it has an answer also where whoever holds the lock is stopped.
"""
import time

from asgi_ipc import access, attached, machine
from asgi_ipc._shm.opening import SEMAPHORE_BYTES
from asgi_ipc.commands import output
from asgi_ipc.commands.findings import error, fine, note, warning

PAUSE = 0.2
"""Seconds between two looks at who holds a lock."""


def findings(place):
    """All that is found in a prefix."""
    prefix = place.prefix
    if not place.there:
        text = "there is no shared memory of this prefix; a process that opens the layer makes it"
        return [note(prefix, text)]
    found = _halves(place) + _owners(place) + _semaphores(place)
    holders = set()
    if place.sound:
        found += _lock(place, holders)
    elif any(half.state == machine.CLOSED for half in place.halves):
        return found
    users = attached.attached(place)
    found += _users(place, users, holders)
    if not found:
        found.append(_sound(place, users))
    return found


def _sound(place, users):
    text = "{0} of {1} in use, mode {2}, {3} attached{4}".format(
        output.size(place.memory),
        output.size(place.size),
        output.octal(place.mode),
        output.count(len(users.processes), "process", "processes"),
        " at least" if users.unseen or users.listeners else "",
    )
    rebuilds = sum(machine.rebuilds_of(half) for half in place.halves)
    if rebuilds:
        text += ", {0} put right so far".format(
            output.count(rebuilds, "death inside the lock", "deaths inside the lock")
        )
    return fine(place.prefix, text)


def _halves(place):
    found = []
    for half in place.halves:
        fault = access.fault_of(place.prefix, half)
        if fault is None:
            continue
        text, _, remedy = fault.partition(". ")
        if half.state == machine.CLOSED:
            found.append(note(place.prefix, fault))
        elif half.state in (machine.UNMADE, machine.ABSENT, machine.OURS):
            found.append(warning(place.prefix, text, remedy))
        else:
            remedy = remedy or "stop the site, and asgi-ipc rm {0}".format(place.prefix)
            found.append(error(place.prefix, text, remedy))
    return found


def _owners(place):
    """Both halves and their semaphores should be one user's, and admit the same others."""
    found = []
    statuses = [half.status for half in place.there]
    statuses += [half.semaphore for half in place.there if half.semaphore not in (None, True)]
    owners = {(status.st_uid, status.st_gid) for status in statuses}
    if len({uid for uid, _ in owners}) > 1:
        who = ", ".join(sorted({machine.user_name(uid) for uid, _ in owners}))
        text = "its segments and semaphores belong to several users ({0}): some can open one part "
        remedy = (
            "stop the site and, as root, asgi-ipc rm {0}; then run all of it as one user".format(
                place.prefix
            )
        )
        found.append(error(place.prefix, text.format(who) + "and not the other", remedy))
    modes = {output.octal(status.st_mode) for status in statuses}
    if len(modes) > 1:
        text = "its segments and semaphores have different modes: {0}".format(
            ", ".join(sorted(modes))
        )
        remedy = "give all processes the same option mode; the owner's processes then mend it"
        found.append(warning(place.prefix, text, remedy))
    elif place.mode & 0o006:
        text = "mode {0} lets every user of this machine read and change messages".format(
            output.octal(place.mode)
        )
        remedy = "mode=0o600, or 0o660 and a group; then asgi-ipc rm {0}".format(place.prefix)
        found.append(warning(place.prefix, text, remedy))
    return found


def _semaphores(place):
    return [
        error(
            place.prefix,
            "the file of the semaphore {0} has {1} bytes and is none".format(
                half.name, half.semaphore.st_size
            ),
            "stop the site, and asgi-ipc rm {0}".format(place.prefix),
        )
        for half in place.there
        if half.semaphore not in (None, True) and half.semaphore.st_size < SEMAPHORE_BYTES
    ]


def _users(place, users, holders):
    """Who is attached; of ``holders``, who are stopped inside a lock, worse has been said."""
    if attached.anybody(users) or users.unseen or not users.known:
        stopped = [one for one in users.processes if one.stopped and one.pid not in holders]
        return [
            warning(
                place.prefix,
                "process {0} is stopped ({1}): what is sent to it waits".format(
                    one.pid, output.safe(one.command)
                ),
                "kill -CONT {0}".format(one.pid),
            )
            for one in stopped
        ]
    return [
        note(
            place.prefix,
            "nobody is attached, and it holds {0}".format(output.size(place.memory)),
            "if the site is not to come back: asgi-ipc rm {0}".format(place.prefix),
        )
    ]


def _lock(place, stuck):
    """Who is inside, twice; their pids go to ``stuck``."""
    holders = [attached.holder_of(half) for half in place.halves]
    if not any(holders) and not any(machine.busy_of(half) for half in place.halves):
        return []
    time.sleep(PAUSE)
    # The words anew, too: what was inside may have left.
    later = machine.Place(place.prefix)
    found = []
    for half, before in zip(later.halves, holders):
        holder = attached.holder_of(half) if half.status is not None else None
        if holder and holder == before:
            stuck.add(holder)
            found.append(_held(place.prefix, half, holder))
        elif holder == 0 and machine.busy_of(half):
            text = "process {0} died inside the lock of {1}: the next call puts it right".format(
                machine.busy_of(half), half.name
            )
            found.append(note(place.prefix, text))
    return found


def _held(prefix, half, holder):
    who = attached.process(holder)
    if who.stopped:
        return error(
            prefix,
            "process {0}, which is stopped, holds the lock of {1} ({2}): all others wait".format(
                holder, half.name, output.safe(who.command)
            ),
            "kill -CONT {0}, or end it".format(holder),
        )
    return note(
        prefix,
        "process {0} held the lock of {1} twice, {2} s apart ({3}): it does much, or hangs".format(
            holder, half.name, PAUSE, output.safe(who.command)
        ),
        "look again; if it is the same for long, end that process",
    )
