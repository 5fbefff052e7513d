"""One monotonic clock that every process and Python version on the machine agrees on.

Expiry times and wait deadlines lie in shared memory, so a Python 2.7 cron job and a 3.13
server must read the same clock. It is the system's monotonic clock: setting the wall clock
changes nothing. It starts anew at boot, and so does shared memory.

``now()`` returns nanoseconds as an int; cost 60 ns on Python 3.7 and later. ``give_way()`` lets
time pass, as little as there is; cost 0.4 us.
"""
import os
import sys
import time

SECOND = 1000000000
"""Nanoseconds in a second."""


def _from_seconds():
    """Python 3.4 to 3.6: the same clock, read as a float (exact to a microsecond)."""
    return int(time.monotonic() * SECOND)


def _from_libc():
    """Return a reader of the C library's clock, for Python 2.7."""
    import ctypes

    if sys.platform == "darwin":
        return _from_mach(ctypes.CDLL(None))

    class Timespec(ctypes.Structure):
        _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))

    read = ctypes.CDLL("librt.so.1", use_errno=True).clock_gettime
    read.argtypes = (ctypes.c_int, ctypes.POINTER(Timespec))
    clock_monotonic = 1

    def now():
        # One structure a call: two threads may be in here.
        spec = Timespec()
        if read(clock_monotonic, ctypes.byref(spec)):
            raise OSError(ctypes.get_errno(), "clock_gettime failed")
        return spec.seconds * SECOND + spec.nanoseconds

    return now


def _from_mach(libc):
    """Python 3's monotonic clock on macOS is mach_absolute_time: read the same."""
    import ctypes

    class Timebase(ctypes.Structure):
        _fields_ = (("numerator", ctypes.c_uint32), ("denominator", ctypes.c_uint32))

    base = Timebase()
    libc.mach_timebase_info(ctypes.byref(base))
    read = libc.mach_absolute_time
    read.restype = ctypes.c_uint64

    def now():
        return int(read() * base.numerator // base.denominator)

    return now


if hasattr(time, "monotonic_ns"):
    now = time.monotonic_ns
elif hasattr(time, "monotonic"):
    now = _from_seconds
else:
    now = _from_libc()

give_way = getattr(os, "sched_yield", None)
"""Lets others have this processor who wait for it; None where Python has no such call (2.7)."""
