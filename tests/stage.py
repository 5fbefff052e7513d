"""Scenes in which an operation is made to fail, and the stage on which they are played.

A ``Scene`` says what is there before, what the operation is, and what may be there after it
failed somewhere: of its outcomes the first is "wholly absent" and the last "wholly done".
Where an operation is several that are each whole, the outcomes between are listed too.

A ``Stage`` sets a scene up on real shared memory, again and again, and judges what is left.
For speed, the bytes of the prepared segment are written back; and stores are opened anew each
time, because what one remembers would be of a future that has not happened.
"""
import logging
import mmap
import os
import struct

import posix_ipc
from stepkit import die_at, footprints_of, timed
from storekit import FakeClock

from asgi_ipc._shm import inside, segment
from asgi_ipc.layout import TAIL

SMALL, ROOMY = 64 * 1024, 512 * 1024
"""Bytes of a segment: one that is full soon, and one whose log grows by steps."""

HALF_A_SECOND = 0.5
"""In which the next one's first call is through, after a death or an interruption."""

LOCK_TIMEOUT = 5.0
"""Seconds after which a lock that was left behind is an error and not a hang."""


class Scene(object):
    """One operation, and what may come of it.

    :param operation: called with the stage; works on ``stage.victim``.
    :param after: called with what is there before; returns the other outcomes, the last of
        which is "done". Without it, the operation changes nothing that can be seen.
    :param before: what is to be there before, at least.
    :param furnish: called with (stage, store), once, to bring that about; else the stage does
        what is usual.
    :param corpse: whether a first process has died in the operation when the scene begins.
    :param absent: whether there is no segment before.
    :param blank: whether there is one that was sized, and nothing more.
    :param prelude: called with the stage in the process that will fail, not traced.
    :param added: what the prelude adds to ``before``.
    :param arrange: called with the stage before that, for what others have to do.
    :param passes: seconds that pass before the operation.
    :param finish: called with the stage after what is left was judged.
    :param reaches: names of functions of the package that the operation must come through, so
        that no scene loses its purpose in silence.
    :param full: whether nothing more can be sent.
    :param afresh: whether nobody is attached who could judge.
    :param closes: whether the operation closes the store.
    :param size: bytes of the segment.
    """

    def __init__(
        self,
        name,
        operation,
        after=None,
        before=None,
        furnish=None,
        corpse=False,
        absent=False,
        blank=False,
        prelude=None,
        added=None,
        arrange=None,
        passes=0,
        finish=None,
        reaches=(),
        full=False,
        afresh=False,
        closes=False,
        size=SMALL,
    ):
        self.name = name
        self.operation = operation
        self.after = after
        self.before = before
        self.furnish = furnish
        self.corpse = corpse
        self.absent = absent
        self.blank = blank
        self.prelude = prelude or _nothing
        self.added = added or {}
        self.arrange = arrange or _nothing
        self.passes = passes
        self.finish = finish or _nothing
        self.reaches = reaches
        self.full = full
        self.afresh = afresh
        self.closes = closes
        self.size = size

    @property
    def delicate(self):
        """Whether it would be another one if anybody wrote anything before."""
        return self.full or self.furnish is not None

    def __repr__(self):
        return self.name


def _nothing(_):
    pass


def but(contents, changes):
    """``contents`` with changes; what is empty is left out."""
    changed = dict(contents)
    changed.update(changes)
    return {name: changed[name] for name in changed if changed[name]}


class Complaints(logging.Handler):
    """Collects what the package logs as an error: nothing, when all is sound."""

    def __init__(self):
        logging.Handler.__init__(self, logging.ERROR)
        self.heard = []

    def emit(self, record):
        self.heard.append(record.getMessage())


class Stage(object):
    """Sets a scene up, and judges what is left of it.

    ``victim`` is the store that the operation is done with, ``judge`` one that looks at what
    is left, ``bystander`` and ``waiter`` belong to somebody else.

    There is a class for each kind of store. It has ``common`` (names of channels or groups that
    scenes use), ``usual`` (what ``furnish(store)`` brings about), ``segments()``, ``make()``,
    ``acquaint(store)`` (has a store look at all that is there, before), ``first_calls()``,
    ``contents(store, names, taken)``, ``go_on(store)``, and ``work_beside(turn)``: what another
    thread does with the victim meanwhile, which loses nothing and leaves nothing.
    """

    common = ()
    usual = None

    def __init__(self, scene, prefix):
        self.scene = scene
        self.prefix = prefix
        self.clock = FakeClock()
        self.begin = self.clock.time
        self.complaints = Complaints()
        logging.getLogger("asgi_ipc").addHandler(self.complaints)
        self.victim = self.judge = self.bystander = self.waiter = None
        self.longest = 0.0
        self._open = []
        self._memory = {}
        self._tokens = {}
        self._images = {}
        self.outcomes = [{}]
        self.names = []

    def prepare(self):
        """Furnish it, and learn what there is before."""
        scene = self.scene
        if not scene.absent:
            self._prepare(scene)
        if scene.after:
            self.outcomes += scene.after(self.outcomes[0])
        self.names = sorted(set(self.common).union(*self.outcomes))

    def _prepare(self, scene):
        store = self.open()
        self._map()
        if scene.furnish:
            scene.furnish(self, store)
        else:
            self.furnish(store)
        self.close()
        self._keep()
        if scene.blank:
            self._images = {name: b"\0" * len(self._images[name]) for name in self._images}
            return
        if scene.corpse:
            self._die_inside()
        self._write_back()
        self.clock.advance(scene.passes)
        before = self.contents(self.open(), self.common, ())
        expected = {} if scene.furnish or scene.corpse else self.usual
        for name, there in (scene.before or expected).items():
            assert before[name] == there, name
        self.close()
        self.outcomes = [but(before, scene.added)]

    def _die_inside(self):
        """Leave the segment as one who died in the middle of the operation has left it."""
        self.set()
        _, changes, _ = footprints_of(self, self.look)
        self.clear()
        for number in changes[len(changes) // 2 :]:
            self.set()
            assert not die_at(self, number)
            if self.inside():
                self._keep()
                self.clear()
                return
            self.clear()
        raise AssertionError("nobody can die in there")

    # -- shared memory -----------------------------------------------------------------

    def _map(self):
        self._unmap()
        for name in self.segments():
            memory = posix_ipc.SharedMemory(name)
            self._memory[name] = (memory.fd, mmap.mmap(memory.fd, memory.size))
            self._tokens[name] = posix_ipc.Semaphore(name)

    def _unmap(self):
        for descriptor, memory in self._memory.values():
            memory.close()
            os.close(descriptor)
        self._memory = {}
        while self._tokens:
            self._tokens.popitem()[1].close()

    def _keep(self):
        self._images = {name: memory[:] for name, (_, memory) in self._memory.items()}

    def _write_back(self):
        descriptors = [descriptor for descriptor, _ in self._memory.values()]
        if segment.SHM_FOLDER and not all(os.fstat(each).st_nlink for each in descriptors):
            # The scene removes them: so they are made anew before they are overwritten.
            self.open()
            self.close()
            self._map()
        for name, (_, memory) in self._memory.items():
            memory[:] = self._images[name]

    def look(self):
        """What other processes could see: shared memory, and whether the lock's token is there."""
        if not (self.scene.absent or self.scene.afresh):
            seen = [memory[:] for _, memory in self._memory.values()]
            if posix_ipc.SEMAPHORE_VALUE_SUPPORTED:
                seen += [token.value for token in self._tokens.values()]
            return seen
        found = []
        if segment.SHM_FOLDER is None:
            return found
        for name in self.segments():
            for path in (name[1:], "sem." + name[1:]):
                try:
                    with open(os.path.join(segment.SHM_FOLDER, path), "rb") as memory:
                        found.append(memory.read())
                except (IOError, OSError):
                    found.append(None)
        return found

    def inside(self, pid=None):
        """Whether anybody, or a certain one, is inside the first segment, dead or alive."""
        _, memory = self._memory[self.segments()[0]]
        found = inside.written_down(memory)
        return found != 0 if pid is None else found == pid

    def word(self, index):
        """A word of the first segment."""
        _, memory = self._memory[self.segments()[0]]
        return struct.unpack("=Q", memory[index * 8 : index * 8 + 8])[0]

    # -- stores ------------------------------------------------------------------------

    def open(self):
        """One more store, closed by ``close``."""
        store = self.make()
        self._open.append(store)
        return store

    def close(self):
        """Close all stores."""
        while self._open:
            self._open.pop().close()
        if self.waiter is not None:
            self.waiter.doorbell.close()
        self.victim = self.judge = self.bystander = self.waiter = None

    # -- one trial ---------------------------------------------------------------------

    def set(self, attached=True):
        """Set the scene. Unless ``attached``, whoever judges opens a store not until then."""
        self.clock.time = self.begin
        if self.scene.absent:
            for name in self.segments():
                segment.unlink(name)
        else:
            self._write_back()
        if not (self.scene.absent or self.scene.blank):
            self.victim = self.open()
            if attached and not self.scene.afresh:
                self.judge = self.open()
            if not self.scene.corpse:
                # What they know beforehand is part of it.
                for store in self._open:
                    self.acquaint(store)
        self.scene.arrange(self)
        self.clock.advance(self.scene.passes)

    def prelude(self):
        """What the process that will fail does before."""
        self.scene.prelude(self)

    def perform(self):
        """The operation."""
        self.scene.operation(self)

    def rehearse(self, store):
        """Play it in a child with a store as it is; return (functions, whether TAIL goes back)."""
        self.victim = store
        self._keep()
        tail = self.word(TAIL)
        _, _, functions = footprints_of(self, lambda: None)
        back = self.word(TAIL) < tail
        self._write_back()
        return functions, back

    def footprints(self):
        """Return (steps, changes, functions) of the operation from its begin to its end."""
        self.set()
        try:
            found = footprints_of(self, self.look)
        finally:
            self.clear()
        for function in self.scene.reaches:
            assert function in found[2], "the scene does not come through " + function
        return found

    def verdict(self, number, through, caller=None):
        """Judge what is left, after a failure or, ``through``, at the end of the operation.

        :param caller: has another store than the judge make the first call; returns what
            ``timed`` returns.
        :returns: whether anything of the operation is there.
        """
        place = "{0}, step {1}".format(self.scene.name, number)
        calls = self.first_calls()
        call = calls[number // 2 % len(calls)]
        took, taken = (caller or self._call_judge)(call)
        self.longest = max(self.longest, took)
        assert took < HALF_A_SECOND, place
        judge = self.judge = self.judge or self.open()
        assert judge.check() == [], place
        found = self.contents(judge, self.names, taken)
        assert found in (self.outcomes[-1:] if through else self.outcomes), place
        self.scene.finish(self)
        self.go_on(judge)
        assert judge.check() == [], place
        assert self.complaints.heard == [], place
        return found != self.outcomes[0]

    def _call_judge(self, call):
        def open_and_call():
            self.judge = self.judge or self.open()
            return call(self.judge)

        return timed(open_and_call)

    def clear(self):
        """Strike the scene."""
        self.close()
        folder = segment.runtime_folder()
        for name in os.listdir(folder):
            if name.startswith(self.prefix + "-") and name.endswith(".bell"):
                os.unlink(os.path.join(folder, name))

    def end(self):
        """For a test's end, however it came."""
        logging.getLogger("asgi_ipc").removeHandler(self.complaints)
        self.close()
        self._unmap()
