"""The lock's protocol on other systems, and broken on purpose: see ``lock_model.py``."""
from lock_model import Lock, LockTimeout


class NoCount(Lock):
    """Where a semaphore cannot tell its count."""

    count_supported = False


class WrittenOut(Lock):
    """As it is where the fast way is written out."""

    written_out = True


SYSTEMS = {"all": Lock, "no count": NoCount, "written out": WrittenOut}


# -- each without one of the rules ---------------------------------------------------------


class TokenIsEnough(Lock):
    """No flock: whoever has the token is in, and who waits long enough takes it for lost."""

    def _try_flock(self):
        yield "flock(TRY)"
        return True


class PostsAlways(Lock):
    def _post(self, holder):
        yield "semaphore.release()"
        holder.token = False


class PostsWithoutTheFlock(Lock):
    def _let_go(self, holder):
        holder.inside = True
        yield from self._post(holder)
        yield from Lock._let_go(self, holder)


class UnlocksFirst(Lock):
    """Of its release, the slow way out."""

    def _leave_slowly(self, holder):
        yield "flock(UNLOCK)"
        yield "words[BUSY] = 0"
        yield "words[SLOW] = 0"
        yield from self._post(holder)
        holder.slow = False


class PostsLast(Lock):
    def _leave_slowly(self, holder):
        yield "words[BUSY] = 0"
        yield "words[SLOW] = 0"
        yield "flock(UNLOCK)"
        yield from self._post(holder)
        holder.slow = False


class NeverClears(Lock):
    def _leave_slowly(self, holder):
        yield "words[SLOW] = 0"
        yield from self._post(holder)
        yield "flock(UNLOCK)"
        holder.slow = False


class NeverBusy(Lock):
    """On the slow way it looks whether another was, but does not say that it is."""

    def _go_slowly(self, holder):
        holder.token = yield from self._take_token()
        if not (holder.token and (yield from self._try_flock())):
            yield from self._wait(holder)
        holder.slow = True
        self.entered = holder
        if not self.guarded:
            return False
        dead = yield from self._shut_out(holder)
        found = yield "words[BUSY]"
        if dead:
            yield "memory[other] = DOWN"
        return found or dead


class ClearsWhenAbandoning(Lock):
    def _let_go(self, holder):
        if self.guarded and (yield from self._try_flock()):
            yield "words[BUSY] = 0"
        self.entered = None
        yield from Lock._let_go(self, holder)


class WaitsForATokenOnly(Lock):
    """The flock is not asked until there is a token: one that was lost is missed for ever."""

    def _wait(self, holder):
        while True:
            if not holder.token:
                holder.token = yield from self._take_token()
            if holder.token and (yield from self._try_flock()):
                return
            if (yield "patience.over()"):
                yield from self._give_up(holder)


# -- the fast way ---------------------------------------------------------------------------


class NoFlag(Lock):
    """The flag goes up when it is inside, not before it looks at the board."""

    def acquire(self):
        holder = self.holder
        holder.inside = True
        if self.guarded and holder.lane and (yield "memory[BOARD]"):
            yield "memory[mine] = up"
            self.entered = holder
            return False
        return (yield from self._go_slowly(holder))


class NoLook(Lock):
    """Whoever has raised its flag is in."""

    def acquire(self):
        holder = self.holder
        holder.inside = True
        if self.guarded and holder.lane:
            yield "memory[mine] = up"
            self.entered = holder
            return False
        return (yield from self._go_slowly(holder))


class LooksAtNoFlags(Lock):
    """On the slow way SLOW is set, and that is all."""

    def _shut_out(self, holder):
        yield "words[SLOW] = 1"


class LooksFirst(Lock):
    """The flags are looked at before SLOW is set."""

    def _shut_out(self, holder):
        while True:
            flags = yield "flags"
            if not self._anyone(holder, flags):
                break
            if (yield "patience.over()"):
                yield from self._give_up(holder)
        yield "words[SLOW] = 1"
        return flags == "dead"


class MindsNoDead(Lock):
    """A flag of the dead is put down, and nothing else comes of it."""

    def _go_slowly(self, holder):
        return (yield from Lock._go_slowly(self, holder)) is True

    def _shut_out(self, holder):
        if (yield from Lock._shut_out(self, holder)):
            yield "memory[other] = DOWN"


class PutsDownFirst(Lock):
    """A flag of the dead is put down before the busy word tells of it."""

    def _shut_out(self, holder):
        dead = yield from Lock._shut_out(self, holder)
        if dead:
            yield "memory[other] = DOWN"
        return dead


class PutsItsFlagDown(Lock):
    """Whoever breaks off inside, by the fast way, leaves nothing on the board."""

    def _let_go(self, holder):
        self.entered = None
        yield from Lock._let_go(self, holder)


class SaysSoAndPutsItsFlagDown(Lock):
    """It sets the busy word before: but who looks at that first, and then at the flag, is in."""

    def _let_go(self, holder):
        if self.entered is holder and not holder.slow:
            yield "words[BUSY] = pid"
        self.entered = None
        yield from Lock._let_go(self, holder)


class KeepsItsLane(Lock):
    """Whoever breaks off inside, by the fast way, leaves its flag up, and lives."""

    def _let_go(self, holder):
        if self.entered is holder and not holder.slow:
            self.entered = None
            holder.inside = False
        else:
            yield from Lock._let_go(self, holder)


class OpensWhenAbandoning(Lock):
    """SLOW is taken off by one who may not be inside."""

    def _let_go(self, holder):
        if self.guarded and holder.lane:
            yield "words[SLOW] = 0"
        yield from Lock._let_go(self, holder)


class KeepsALane(Lock):
    """A lane that was being taken when a handler raised is kept, and its flag with it."""

    def _let_go(self, holder):
        if holder.lane:
            yield from Lock._let_go(self, holder)
            return
        holder.inside = True
        self.entered = None
        if (yield from self._try_flock()):
            yield from self._post(holder)
            yield "flock(UNLOCK)"
        holder.slow = False
        holder.inside = False


# -- interruptions --------------------------------------------------------------------------


class AbandonsOnce(Lock):
    """As it was: an exception in ``abandon`` itself is not met by another try."""

    def abandon(self):
        refused, self.holder.refused = self.holder.refused, None
        if refused is None or refused != self.frame:
            yield from self._let_go(self.holder)


class ReleasesRegardless(Lock):
    """It does not ask who is inside, as it was."""

    def release(self):
        self.entered = self.holder
        yield from Lock.release(self)


class AbandonsWhatAnotherHas(ReleasesRegardless):
    """As it was: the abandon of a handler that was refused frees what it interrupted."""

    def abandon(self):
        self.holder.refused = None
        yield from Lock.abandon(self)


class MarksLate(ReleasesRegardless):
    """As it was: inside is who has the flock, so a handler comes in between the two."""

    def acquire(self):
        holder = self.holder
        if holder.inside:
            yield from self._recover_own(holder)
        found = yield from self._go_slowly(holder)
        holder.inside = True
        return found


class PostsWhatItTook(NoCount):
    """As it was, where the count cannot be told."""

    def _post(self, holder):
        if holder.token:
            yield "semaphore.release()"
        holder.token = False


BROKEN = [
    # protocol, interrupts, calls, what comes of it
    (TokenIsEnough, 0, (), "two inside"),
    (PostsAlways, 1, (), "more tokens than there were"),
    (PostsWithoutTheFlock, 1, (), "more tokens than there were"),
    (UnlocksFirst, 0, (), "torn data, and no rebuild"),
    (PostsLast, 0, (), "more tokens than there were"),
    (NeverClears, 0, (), "busy word left set"),
    (NeverBusy, 0, (), "torn data, and no rebuild"),
    (ClearsWhenAbandoning, 1, (), "torn data, and no rebuild"),
    (WaitsForATokenOnly, 0, (), "alone, and never there"),
    (AbandonsOnce, 1, (), "at rest with the flock"),
    (AbandonsWhatAnotherHas, 0, ("called",), "two inside"),
    (MarksLate, 0, ("late call",), "two inside"),
    (NoFlag, 0, (), "two inside"),
    (NoLook, 0, (), "two inside"),
    (LooksAtNoFlags, 0, (), "two inside"),
    (LooksFirst, 0, (), "two inside"),
    (MindsNoDead, 0, (), "torn data, and no rebuild"),
    (PutsDownFirst, 0, (), "torn data, and no rebuild"),
    (PutsItsFlagDown, 1, (), "torn data, and no rebuild"),
    (SaysSoAndPutsItsFlagDown, 1, (), "torn data, and no rebuild"),
    (KeepsItsLane, 1, (), "at rest with the flag up"),
    (OpensWhenAbandoning, 1, (), "two inside"),
    (KeepsALane, 1, (), "at rest with the flag up"),
    (PostsWhatItTook, 1, (), "more tokens than there were"),
    (PostsWhatItTook, 0, (), "a token is not back after one use"),
]


class KeepsItsToken(Lock):
    """Of one that gives up."""

    def _give_up(self, holder):
        yield from self._let_go(holder)
        raise LockTimeout
