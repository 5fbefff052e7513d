"""Time: wall clocks that are wrong or jump change nothing, and all Pythons read one clock.

The clocks are faked in real processes by libfaketime, each in its own way; the expected times
are taken by this process, whose clock is not faked. What is faked is what the system's
administrator can set (CLOCK_REALTIME): no process can set the monotonic clock.
"""
from __future__ import print_function

import glob
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time

import pytest
from sandbox import end, faketime_library, interpreters, layer_environment, needs_linux
from storekit import Child

from asgi_ipc import IPCChannelLayer
from asgi_ipc._shm import clock, inside
from asgi_ipc._shm.clock import SECOND
from asgi_ipc.errors import GroupsFull

HOUR = 3600
EXPIRY = 1.5

SERVER = u"""
from __future__ import print_function
import json, select, sys, threading, time, traceback
from asgi_ipc import IPCChannelLayer
from asgi_ipc._shm import clock

# As Python did it before 3.11: libfaketime 0.9.10 refuses how it is done since then.
time.sleep = lambda seconds: select.select([], [], [], seconds)
layer = IPCChannelLayer(sys.argv[1], **json.loads(sys.argv[2]))


def attempt(name, args):
    try:
        return getattr(layer, name)(*args)
    except Exception as error:
        traceback.print_exc()
        return type(error).__name__


def timed(where, name, *args):
    found = []

    def call():
        begun = clock.now()
        answer = attempt(name, args)
        found.append([(clock.now() - begun) / 1e9, answer])

    if where == "main":
        call()
    else:
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
    return found[0]


def clocks():
    return [time.time(), clock.now()]


calls = {"clocks": clocks, "timed": timed}
print("ready")
sys.stdout.flush()
for line in iter(sys.stdin.readline, ""):
    name, args = json.loads(line)
    answer = calls[name](*args) if name in calls else attempt(name, args)
    print(json.dumps(answer))
    sys.stdout.flush()
layer.close()
"""
"""A process that does with a layer what it is told, a line each."""


LIBRARY = faketime_library()
needs_faketime = pytest.mark.skipif(
    LIBRARY is None, reason="needs libfaketime (Debian: apt-get install libfaketime)"
)


def sweep(pid):
    """Remove what libfaketime leaves in shared memory of a process that was killed, or not."""
    for path in glob.glob("/dev/shm/*faketime_*_{0}".format(pid)):
        os.unlink(path)


class Fake(object):
    """A process with a layer, and with a wall clock that is as many hours off as it is told."""

    def __init__(self, prefix, folder, name, hours, **options):
        self.hours = hours
        self.setting = os.path.join(folder, name + ".clock")
        script = os.path.join(folder, name + ".py")
        with open(script, "w") as file:
            file.write(str(SERVER))
        self.turn(hours)
        environment = dict(
            layer_environment(folder),
            LD_PRELOAD=LIBRARY,
            FAKETIME_TIMESTAMP_FILE=self.setting,
            FAKETIME_NO_CACHE="1",
            FAKETIME_DONT_FAKE_MONOTONIC="1",
        )
        self.process = subprocess.Popen(
            [sys.executable, script, prefix, json.dumps(options)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            universal_newlines=True,
        )
        assert self.process.stdout.readline() == "ready\n"

    def turn(self, hours):
        """Set its wall clock, while it runs or not."""
        self.hours = hours
        with open(self.setting + ".new", "w") as file:
            file.write("{0:+d}h\n".format(hours))
        os.rename(self.setting + ".new", self.setting)

    def begin(self, name, *args):
        self.process.stdin.write(json.dumps([name, args]) + "\n")
        self.process.stdin.flush()

    def end(self, seconds=20):
        """The answer, within so many seconds."""
        assert select.select([self.process.stdout], [], [], seconds)[0]
        return json.loads(self.process.stdout.readline())

    def call(self, name, *args):
        """Have it do something with its layer; what came of it."""
        self.begin(name, *args)
        return self.end()

    def assert_faked(self):
        """Its wall clock is off by what it was told, its monotonic one is ours."""
        before = clock.now()
        wall, monotonic = self.call("clocks")
        after = clock.now()
        assert abs(wall - time.time() - self.hours * HOUR) < 60
        assert before <= monotonic <= after

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        sweep(self.process.pid)


@pytest.fixture
def start(prefix, tmpdir):
    """A function that starts one more process with a wrong clock."""
    fakes = []

    def start_one(hours, **options):
        folder = str(tmpdir.mkdir("fake{0}".format(len(fakes))))
        options.setdefault("message_memory", 1 << 20)
        options.setdefault("group_memory", 1 << 20)
        fakes.append(Fake(prefix, folder, "fake", hours, **options))
        return fakes[-1]

    yield start_one
    for fake in fakes:
        fake.stop()


def wait_until(time_of_clock):
    time.sleep(max(0, (time_of_clock - clock.now()) / float(SECOND)))


@needs_faketime
def test_the_clocks_are_really_faked(start):
    fake = start(5)
    fake.assert_faked()
    fake.turn(-5)
    fake.assert_faked()


@pytest.mark.slow
@needs_faketime
def test_nothing_expires_early_or_late(start, prefix, campaign):
    """Each sends to each other and joins a group; one third of them is read in time."""
    options = {"expiry": EXPIRY, "group_expiry": EXPIRY, "capacity": 1000}
    fakes = [start(hours, **options) for hours in (5, -5, 0)]
    jumping = fakes[2]
    for _ in range(campaign.amount(2, 100)):
        jumping.turn(campaign.random.choice((-3, 3)))
        for fake in fakes:
            fake.assert_faked()
        pairs = [(one, two) for one in range(3) for two in range(3)]
        begun = clock.now()
        for one, two in pairs:
            for kind in ("soon", "late"):
                channel = "{0}.{1}.{2}".format(kind, one, two)
                assert fakes[one].call("send", channel, {"n": 1}) is None
                assert fakes[one].call("group_add", "g{0}".format(one), channel) is None
        sent = clock.now()
        jumping.turn(-jumping.hours)
        for one, two in pairs:
            channel = "soon.{0}.{1}".format(one, two)
            assert fakes[two].call("receive", [channel]) == [channel, {"n": 1}]
            assert channel in fakes[two].call("group_channels", "g{0}".format(one))
        in_time = clock.now() - begun < EXPIRY * SECOND
        wait_until(sent + int(EXPIRY * SECOND) + SECOND // 50)
        jumping.turn(campaign.random.randrange(-100, 100))
        for one, two in pairs:
            channel = "late.{0}.{1}".format(one, two)
            assert fakes[two].call("receive", [channel]) == [None, None]
            assert fakes[two].call("group_channels", "g{0}".format(one)) == []
        # Else the machine was so slow that nothing was shown.
        assert in_time
    with IPCChannelLayer(prefix, message_memory=1 << 20, group_memory=1 << 20) as layer:
        assert layer.check() == []


def take_time(fakes, hours, *call):
    """Have all do something while the last one's clock jumps; (seconds, answer) of each."""
    jumping = fakes[-1]
    jumping.turn(0)
    for fake in fakes:
        fake.begin("timed", *call)
    for hour in hours:
        time.sleep(0.15)
        jumping.turn(hour)
    return [fake.end() for fake in fakes]


JUMPS = [(5, 5), (-5, -5), (5, -5)]
"""By a clock that jumps so, a wait would end too early, or last for hours."""


@pytest.mark.slow
@needs_faketime
@pytest.mark.parametrize("where", ["main", "thread"])
def test_waits_end_in_time_while_the_clock_jumps(start, campaign, where):
    """Longer than a second: after that much it looks at the time again."""
    fakes = [start(hours, block_timeout=1.4) for hours in (5, -5, 0)]
    longest = 0
    for hours in campaign.choose(JUMPS, 2):
        for took, answer in take_time(fakes, hours, where, "receive", [u"nothing"], True):
            assert answer == [None, None]
            assert 1.39 <= took < 6
            longest = max(longest, took)
    campaign.note("waits of 1.4 s took {0:.2f} s at most".format(longest))


@pytest.mark.slow
@needs_faketime
def test_a_waiting_receiver_is_woken_whatever_the_clocks_say(start):
    fast, slow, jumping = fakes = [start(hours, block_timeout=30) for hours in (5, -5, 0)]
    for sender, receiver in ((fast, slow), (slow, jumping), (jumping, fast)):
        receiver.begin("receive", ["wake"], True)
        time.sleep(0.2)
        jumping.turn(-jumping.hours or 7)
        begun = clock.now()
        if sender is not receiver:
            sender.call("send", "wake", {"n": 1})
        assert receiver.end() == ["wake", {"n": 1}]
        # It looks by itself in a second: it was woken.
        assert clock.now() - begun < SECOND * 7 // 10
    assert all(fake.call("check") == [] for fake in fakes)


def hold(layer):
    """Take the lock of the messages, and stay."""
    lock = layer._stores.messages._lock
    lock.acquire()
    os.kill(os.getpid(), signal.SIGSTOP)


@pytest.mark.slow
@needs_faketime
def test_lock_timeouts_come_in_time_while_the_clock_jumps(start, prefix, campaign):
    fakes = [start(hours, lock_timeout=1) for hours in (5, -5, 0)]
    with IPCChannelLayer(prefix, message_memory=1 << 20, group_memory=1 << 20) as layer:
        holder = Child(hold, layer)
        try:
            os.waitpid(holder.pid, os.WUNTRACED)
            for where in ("main", "thread"):
                for hours in campaign.choose(JUMPS, 2):
                    for took, answer in take_time(fakes, hours, where, "send", "x", {"n": 1}):
                        assert answer == "LockTimeout"
                        assert 0.99 <= took < 6
        finally:
            holder.kill()
        for fake in fakes:
            assert fake.call("timed", "thread", "send", "x", {"n": 1})[1] is None


SET_BACK = u"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>

/* Whoever looks at the wall clock sees it just before it is set back by five hours. */

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    int (*real)(struct timeval *, void *) = dlsym(RTLD_NEXT, "gettimeofday");
    int answer = real(now, zone);
    now->tv_sec += 5 * 3600;
    return answer;
}

int clock_gettime(clockid_t which, struct timespec *now)
{
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int answer = real(which, now);
    if (which == CLOCK_REALTIME)
        now->tv_sec += 5 * 3600;
    return answer;
}
"""

WAITS_IN_A_THREAD = u"""
import sys, threading, time
from asgi_ipc import IPCChannelLayer

assert time.time() > float(sys.argv[2]) + 4 * 3600
layer = IPCChannelLayer(sys.argv[1], message_memory=1 << 20, group_memory=1 << 20)
layer.receive([u"x"])
print("ready")
sys.stdout.flush()
sys.stdin.readline()
thread = threading.Thread(target=layer.send, args=(u"x", {"n": 1}))
thread.start()
thread.join()
layer.close()
"""


def die_holding(layer):
    """Take the token and the lock, wait to be killed."""
    layer._stores.messages._lock.acquire()
    time.sleep(60)


@pytest.mark.slow
@needs_linux
def test_a_wait_for_the_lock_that_sees_the_clock_set_back(prefix, tmpdir):
    """A holder dies, and the clock is set back, while a thread waits: it gets in all the same."""
    library, source = str(tmpdir.join("back.so")), str(tmpdir.join("back.c"))
    with open(source, "w") as file:
        file.write(str(SET_BACK))
    try:
        subprocess.check_call(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"])
    except (OSError, IOError, subprocess.CalledProcessError) as error:
        pytest.skip("needs a C compiler: {0}".format(error))
    script = str(tmpdir.join("waits.py"))
    with open(script, "w") as file:
        file.write(str(WAITS_IN_A_THREAD))
    environment = dict(layer_environment(str(tmpdir)), LD_PRELOAD=library)
    with IPCChannelLayer(prefix, message_memory=1 << 20, group_memory=1 << 20) as layer:
        process = subprocess.Popen(
            [sys.executable, script, prefix, str(time.time())],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            universal_newlines=True,
        )
        children = []
        try:
            assert process.stdout.readline() == "ready\n"
            holder = Child(die_holding, layer)
            children.append(holder)
            while inside.written_down(layer._stores.messages._map) != holder.pid:
                time.sleep(0.001)
            process.stdin.write("go\n")
            process.stdin.flush()
            time.sleep(0.5)
            assert process.poll() is None
            holder.kill()
            process.stdin.close()
            killer = threading.Timer(5, process.kill)
            killer.start()
            status = process.wait()
            killer.cancel()
        finally:
            end(children)
            if process.poll() is None:
                process.kill()
                process.wait()
            process.stdout.close()
        assert status == 0
        assert layer.receive([u"x"]) == (u"x", {u"n": 1})


# -- with nobody receiving --------------------------------------------------------------------


def test_expiry_gives_memory_back_with_nobody_receiving(prefix):
    """Sends elsewhere are enough, of those who know nothing of the channel."""
    options = {"message_memory": 1 << 20, "group_memory": 64 * 1024, "capacity": 1000}
    with IPCChannelLayer(prefix, expiry=0.5, **options) as early:
        with IPCChannelLayer(prefix, expiry=60, **options) as late:
            for number in range(20):
                early.group_add(u"g", u"gone!{0}".format(number))
            early.group_add(u"g", u"plain")
            early.send_group(u"g", {"n": 1})
            late.group_add(u"g", u"stays!a")
            sent = 0
            try:
                while True:
                    early.send(u"gone!{0}".format(sent % 20), {"body": b"x" * 20000})
                    sent += 1
            except early.ChannelFull:
                pass
            assert sent > 20
            with pytest.raises(late.ChannelFull):
                late.send(u"else", {"body": b"x" * 20000})
            time.sleep(0.6)
            for _ in range(sent):
                late.send(u"else", {"body": b"x" * 20000})
            # Whose messages went unread is taken to be gone; the others stay.
            assert late.group_channels(u"g") == [u"plain", u"stays!a"]
            assert late.check() == []


def test_memberships_expire_with_nobody_sending(prefix):
    """Their room is there for others when their time is up, though nobody looked at the group."""
    options = {"message_memory": 64 * 1024, "group_memory": 64 * 1024}
    with IPCChannelLayer(prefix, group_expiry=0.5, **options) as layer:
        added = 0
        try:
            while True:
                layer.group_add(u"g{0}".format(added % 9), u"p!{0}".format(added))
                added += 1
        except GroupsFull:
            pass
        time.sleep(0.6)
        for number in range(added):
            layer.group_add(u"h{0}".format(number % 9), u"q!{0}".format(number))
        assert layer.group_channels(u"g0") == []
        assert len(layer.group_channels(u"h0")) > 20
        assert layer.check() == []


# -- one clock ---------------------------------------------------------------------------------

READS = u"""
import sys
names = {"__name__": "clock"}
exec(compile(open(sys.argv[1]).read(), sys.argv[1], "exec"), names)
now = names["now"]
for line in iter(sys.stdin.readline, ""):
    print(now())
    sys.stdout.flush()
"""


@pytest.mark.slow
@needs_linux
def test_all_pythons_of_the_machine_read_one_clock(tmpdir, campaign):
    """Each reading lies between two of ours, and is monotonic; 3.4 to 3.6 read microseconds."""
    script = str(tmpdir.join("reads.py"))
    with open(script, "w") as file:
        file.write(str(READS))
    path = os.path.abspath(clock.__file__).replace(".pyc", ".py")
    widest = {}
    for python in interpreters():
        # With a wrong wall clock, where that can be had; in full also without.
        for library in campaign.amount([LIBRARY], [None, LIBRARY]):
            environment = dict(os.environ, PYTHONDONTWRITEBYTECODE="1")
            if library is not None:
                environment.update(
                    LD_PRELOAD=library, FAKETIME="-5h", FAKETIME_DONT_FAKE_MONOTONIC="1"
                )
            process = subprocess.Popen(
                [python, script, path],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                universal_newlines=True,
            )
            try:
                for _ in range(20):
                    before = clock.now()
                    process.stdin.write("?\n")
                    process.stdin.flush()
                    reading = int(process.stdout.readline())
                    after = clock.now()
                    assert before - 2000 <= reading <= after + 2000, python
                    name = os.path.basename(python)
                    widest[name] = min(after - before, widest.get(name, after))
            finally:
                process.stdin.close()
                process.wait()
                process.stdout.close()
                sweep(process.pid)
    assert widest
    campaign.note(
        "{0} agree, within {1} us at best".format(
            ", ".join(sorted(widest)), max(widest.values()) // 1000
        )
    )
