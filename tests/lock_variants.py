"""The lock's protocol on other systems, and broken on purpose: see ``lock_model.py``."""
from lock_model import Lock, LockTimeout


class NoCount(Lock):
    """Where a semaphore cannot tell its count."""

    count_supported = False


SYSTEMS = {"all": Lock, "no count": NoCount}


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
        yield "words[DOOR] = 0"
        yield from self._post(holder)
        holder.slow = False


class ClearsLast(Lock):
    def release(self):
        if self.holder.slow:
            yield from self._leave_slowly(self.holder)
        else:
            yield "words[DOOR] = 0"
            yield "words[mine] = 0"
        if self.guarded:
            yield "words[busy] = 0"
        self.holder.inside = False


class PostsLast(Lock):
    def _leave_slowly(self, holder):
        yield "words[DOOR] = 0"
        yield "flock(UNLOCK)"
        yield from self._post(holder)
        holder.slow = False


class NeverClears(Lock):
    def release(self):
        if self.holder.slow:
            yield from self._leave_slowly(self.holder)
        else:
            yield "words[DOOR] = 0"
            yield "words[mine] = 0"
        self.holder.inside = False


class NeverBusy(Lock):
    """It looks whether another was, but does not say that it is."""

    def acquire(self):
        self.holder.inside = True
        yield from self._go_slowly(self.holder)
        return (yield "words[busy]") if self.guarded else False


class ClearsWhenAbandoning(Lock):
    def _let_go(self, holder):
        if self.guarded and (yield from self._try_flock()):
            yield "words[busy] = 0"
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
    """The flag goes up when it is inside, not before it looks at the door."""

    def acquire(self):
        self.holder.inside = True
        if not self.guarded or not self.holder.lane or (yield "words[DOOR]"):
            yield from self._go_slowly(self.holder)
        else:
            yield "words[DOOR] = mine"
            yield "words[mine] = mine"
        found = False
        if self.guarded:
            found = yield "words[busy]"
            yield "words[busy] = pid"
        return found


class NobodyIsLatest(Lock):
    """Whoever finds the door open shuts it, and is in."""

    def acquire(self):
        self.holder.inside = True
        if not self.guarded or not self.holder.lane:
            yield from self._go_slowly(self.holder)
        else:
            yield "words[mine] = mine"
            if (yield "words[DOOR]"):
                yield "words[mine] = 0"
                yield from self._go_slowly(self.holder)
            else:
                yield "words[DOOR] = mine"
        found = False
        if self.guarded:
            found = yield "words[busy]"
            yield "words[busy] = pid"
        return found


class LooksAtNoFlags(Lock):
    """On the slow way the door is shut, and that is all."""

    def _shut_out(self, holder):
        yield "words[LATEST] = SLOW"
        yield "words[DOOR] = SLOW"


class LooksOnce(Lock):
    """Whether the door is still shut by itself, when all flags are down, is not asked."""

    def _shut_out(self, holder):
        yield "words[LATEST] = SLOW"
        yield "words[DOOR] = SLOW"
        while (yield from self._anyone(holder)):
            if (yield "patience.over()"):
                yield from self._give_up(holder)


class LooksFirst(Lock):
    """The flags are looked at before the door is shut."""

    def _shut_out(self, holder):
        while (yield from self._anyone(holder)):
            if (yield "patience.over()"):
                yield from self._give_up(holder)
        yield "words[LATEST] = SLOW"
        yield "words[DOOR] = SLOW"


class OpensWhenAbandoning(Lock):
    """The door is opened by one who may not be inside."""

    def _let_go(self, holder):
        if self.guarded and holder.lane:
            yield "words[DOOR] = 0"
        yield from Lock._let_go(self, holder)


class FlagDownFirst(Lock):
    """On the way out, by the fast way, the door is opened when the flag is down already."""

    def release(self):
        yield "words[busy] = 0"
        if self.holder.slow:
            yield from self._leave_slowly(self.holder)
        else:
            yield "words[mine] = 0"
            yield "words[DOOR] = 0"
        self.holder.inside = False


class KeepsALane(Lock):
    """A lane that was being taken when a handler raised is kept, and its flag with it."""

    def _let_go(self, holder):
        holder.inside = True
        if holder.lane and self.guarded:
            yield "words[mine] = 0"
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


class AbandonsWhatAnotherHas(Lock):
    """As it was: the abandon of a handler that was refused frees what it interrupted."""

    def abandon(self):
        self.holder.refused = None
        yield from Lock.abandon(self)


class MarksLate(Lock):
    """As it was: inside is who has the flock, so a handler comes in between the two."""

    def acquire(self):
        holder = self.holder
        if holder.inside:
            yield from self._recover_own(holder)
        yield from self._go_slowly(holder)
        holder.inside = True
        if not self.guarded:
            return False
        found = yield "words[busy]"
        yield "words[busy] = pid"
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
    (ClearsLast, 0, (), "torn data, and no rebuild"),
    (PostsLast, 0, (), "more tokens than there were"),
    (NeverClears, 0, (), "busy word left set"),
    (NeverBusy, 0, (), "torn data, and no rebuild"),
    (ClearsWhenAbandoning, 1, (), "torn data, and no rebuild"),
    (WaitsForATokenOnly, 0, (), "alone, and never there"),
    (AbandonsOnce, 1, (), "at rest with the flock"),
    (AbandonsWhatAnotherHas, 0, ("called",), "two inside"),
    (MarksLate, 0, ("late call",), "two inside"),
    (NoFlag, 0, (), "two inside"),
    (NobodyIsLatest, 0, (), "two inside"),
    (LooksAtNoFlags, 0, (), "two inside"),
    (LooksOnce, 0, (), "two inside"),
    (LooksFirst, 0, (), "two inside"),
    (FlagDownFirst, 0, (), "two inside"),
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
