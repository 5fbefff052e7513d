"""Who must hear of a fork: a child process has an identity and descriptors of its own.

A child inherits the mapping, the descriptors and the Python objects of its parent. The
mapping is good as it is. Descriptors are not: a flock belongs to the open file description
that parent and child share, so a child that kept the inherited one would keep a lock alive
that its dead parent held. Objects that own such things call ``watch(self)`` and offer a
method ``forked()``, which runs in the child: at once where Python has
``os.register_at_fork`` (3.7), else before the child's first operation (``check()``).
"""
import os
import threading
import weakref

_watched = {}
_turns = {}
_pid = _seen_to = os.getpid()

NEEDS_CHECK = not hasattr(os, "register_at_fork")
"""True where no hook exists, so that every operation has to call ``check()``."""


def watch(thing):
    """Have ``thing.forked()`` called in every child that this process forks."""
    key = id(thing)
    _watched[key] = weakref.ref(thing, lambda _: _watched.pop(key, None))


def pid():
    """The pid of this process, without a system call."""
    return _pid


def check():
    """Notice a fork that no hook told us of; return when all who watch have heard of it.

    The lock is the child's own: one that the parent made may be held, by nobody in here.
    """
    pid = os.getpid()
    if pid != _seen_to:
        with _turns.setdefault(pid, threading.RLock()):
            if pid != _pid:
                _in_child()


def _in_child():
    global _pid, _seen_to
    _pid = os.getpid()
    for reference in list(_watched.values()):
        thing = reference()
        if thing is not None:
            thing.forked()
    _seen_to = _pid


if not NEEDS_CHECK:
    os.register_at_fork(after_in_child=_in_child)
