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
        if (yield from self._try_flock()):
            yield "flock(UNLOCK)"
        holder.inside = False


class UnlocksFirst(Lock):
    def release(self):
        yield "flock(UNLOCK)"
        yield "words[busy] = 0"
        yield from self._post(self.holder)
        self.holder.inside = False


class ClearsLast(Lock):
    def release(self):
        yield from self._post(self.holder)
        yield "flock(UNLOCK)"
        yield "words[busy] = 0"
        self.holder.inside = False


class PostsLast(Lock):
    def release(self):
        yield "words[busy] = 0"
        yield "flock(UNLOCK)"
        yield from self._post(self.holder)
        self.holder.inside = False


class NeverClears(Lock):
    def release(self):
        yield from self._post(self.holder)
        yield "flock(UNLOCK)"
        self.holder.inside = False


class NeverBusy(Lock):
    def acquire(self):
        self.holder.inside = True
        if not (yield "semaphore.acquire(0)") or not (yield "flock(TRY)"):
            yield from self._wait(self.holder)
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
            if (yield "clock.now() >= deadline"):
                yield from self._give_up(holder)


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
        if not (yield "semaphore.acquire(0)") or not (yield "flock(TRY)"):
            yield from self._wait(holder)
        holder.inside = True
        if not self.guarded:
            return False
        found = yield "words[busy]"
        yield "words[busy] = pid"
        return found


class PostsWhatItTook(NoCount):
    """As it was, where the count cannot be told."""

    def acquire(self):
        self.holder.inside = True
        self.holder.token = yield "semaphore.acquire(0)"
        if not self.holder.token or not (yield "flock(TRY)"):
            yield from self._wait(self.holder)
        if not self.guarded:
            return False
        found = yield "words[busy]"
        yield "words[busy] = pid"
        return found

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
    (PostsWhatItTook, 1, (), "more tokens than there were"),
    (PostsWhatItTook, 0, (), "a token is not back after one use"),
]


class KeepsItsToken(Lock):
    """Of one that gives up."""

    def _give_up(self, holder):
        if self.guarded:
            yield "words[busy]"
        raise LockTimeout
