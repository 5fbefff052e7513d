"""Who may use a layer's shared memory: its user alone, unless ``mode`` admits others.

With real users, in forked children of root, on a /dev/shm of their own (sticky, as the real one).
"""
import errno
import os
import signal
import socket
import stat
import threading
import time

import posix_ipc
import pytest
from sandbox import (
    MIB,
    as_user,
    descriptors,
    end,
    needs_linux,
    on_small_shm,
    skip_without_own_shm,
    skip_without_users,
)
from storekit import Child

from asgi_ipc import IPCChannelLayer, cli, integrity
from asgi_ipc._shm import doorbell
from asgi_ipc.errors import IPCError, SegmentError

pytestmark = needs_linux

ANN, BEN, EVE = 65534, 4242, 4343
"""Users; each has a group of the same number."""

TEAM = 5555
"""A group."""

KIB = 1024
SMALL = {"message_memory": 256 * KIB, "group_memory": 64 * KIB}
NAMES = ["/p-messages", "/p-groups"]

# A child that is another user may be unable to read the files of the package.
doorbell.Doorbell  # noqa: B018
integrity.faults  # noqa: B018


@pytest.fixture(scope="module", autouse=True)
def _users():
    skip_without_own_shm()
    skip_without_users()


def in_own_shm(function, *args):
    return on_small_shm(16 * MIB, function, *args)


def files():
    """Name, mode, owner and group of all that is in /dev/shm."""
    found = []
    for name in sorted(os.listdir("/dev/shm")):
        status = os.lstat("/dev/shm/" + name)
        found.append((name, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid))
    return found


def wait_for_bells(count, children=()):
    """Wait until so many receivers wait, all of these children among them."""
    while len([name for name in os.listdir("/dev/shm") if name.endswith(".bell")]) < count:
        for child in children:
            if os.waitpid(child.pid, os.WNOHANG)[0]:
                child._status = 0
                child.result()
        time.sleep(0.005)
    # The doorbell is there a little before its owner waits at it.
    time.sleep(0.1)


def refusal_of(**options):
    """The text with which a layer is refused; "" if it is made. Nothing is left open."""
    before = descriptors()
    text = attempt(options)
    if text:
        assert len(descriptors()) == len(before)
    return text


def attempt(options):
    try:
        with IPCChannelLayer("p", **dict(SMALL, **options)):
            return ""
    except SegmentError as error:
        return str(error)


# -- by default ----------------------------------------------------------------------------------


def make_all(umask):
    """Make every kind of file, with a umask; use it; return what is there."""
    os.umask(umask)
    with IPCChannelLayer("p", block_timeout=0.05, **SMALL) as layer:
        assert layer.receive([u"x"], block=True) == (None, None)
        found = files()
        with IPCChannelLayer("p", **SMALL) as other:
            other.send(u"x", {"n": 1})
        assert layer.receive([u"x"], block=True) == (u"x", {u"n": 1})
    return found


def all_with_umask(umask):
    return as_user(ANN, ANN, make_all, umask).result()


@pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o777])
def test_all_is_private_whatever_the_umask(umask):
    found = in_own_shm(all_with_umask, umask)
    kinds = sorted(name.split(".")[-1] for name, _, _, _ in found)
    assert kinds == ["bell", "p-groups", "p-groups", "p-messages", "p-messages"]
    assert {rest for _, rest, _, _ in found} == {0o600}
    assert {uid for _, _, uid, _ in found} == {ANN}


def hold_a_layer():
    """Have a layer with a receiver that waits, until killed."""
    with IPCChannelLayer("p", block_timeout=60, **SMALL) as layer:
        layer.send(u"secret", {"text": u"for me"})
        layer.group_add(u"g", u"secret")
        layer.receive([u"x"], block=True)


def denied(call, *args):
    """Whether the system refuses it for want of permission."""
    try:
        call(*args)
    except (OSError, IOError) as error:
        return error.errno in (errno.EACCES, errno.EPERM)
    except posix_ipc.PermissionsError:
        return True
    return False


def try_everything():
    """What another user may try on each file; return what was not denied."""
    allowed = []
    for name, _, _, _ in files():
        path = "/dev/shm/" + name
        for what, call in (
            ("read", lambda path=path: os.open(path, os.O_RDONLY | os.O_NONBLOCK)),
            ("write", lambda path=path: os.open(path, os.O_WRONLY | os.O_NONBLOCK)),
            ("unlink", lambda path=path: os.unlink(path)),
            ("rename", lambda path=path: os.rename(path, path + ".mine")),
            ("chmod", lambda path=path: os.chmod(path, 0o666)),
            ("chown", lambda path=path: os.chown(path, EVE, EVE)),
        ):
            if not denied(call):
                allowed.append((what, name))
    for name in NAMES:
        for what, call in (
            ("memory", lambda name=name: posix_ipc.SharedMemory(name)),
            ("semaphore", lambda name=name: posix_ipc.Semaphore(name)),
            ("unlink memory", lambda name=name: posix_ipc.unlink_shared_memory(name)),
            ("unlink semaphore", lambda name=name: posix_ipc.unlink_semaphore(name)),
        ):
            if not denied(call):
                allowed.append((what, name))
    # Nor by way of the layer and its command.
    texts = [refusal_of(), refusal_of(mode=0o660), refusal_of(mode=0o666)]
    return allowed, texts, cli.main(["rm", "p"])


def another_beside_a_layer(user):
    holder = as_user(ANN, ANN, hold_a_layer)
    try:
        wait_for_bells(1)
        before = files()
        result = as_user(user, user, try_everything).result()
        assert files() == before
    finally:
        holder.kill()
    return result


def test_another_user_gets_nowhere():
    allowed, texts, status = in_own_shm(another_beside_a_layer, EVE)
    assert allowed == []
    assert status == 1
    for text in texts:
        assert "user {0}".format(ANN) in text
        assert "another prefix" in text


def root_beside_a_layer():
    as_user(ANN, ANN, make_all, 0o022).result()
    return refusal_of()


def test_root_does_not_mix_in_by_mistake():
    """It could, and would leave things behind that the user cannot use."""
    text = in_own_shm(root_beside_a_layer)
    assert "user {0}".format(ANN) in text
    assert "user 0" in text


def drop_privileges_after():
    """A server that makes its layer as root, and serves as somebody else."""
    with IPCChannelLayer("p", **SMALL) as layer:
        layer.send(u"x", {"n": 1})
        return as_user(ANN, ANN, use_as_another, layer).result()


def use_as_another(layer):
    """Use it in a new thread, which has to open the segments itself."""
    texts = []

    def use():
        for call in (
            lambda: layer.send(u"x", {"n": 2}),
            lambda: layer.group_add(u"g", u"x"),
            lambda: layer.receive([u"x"], block=True),
        ):
            try:
                call()
            except IPCError as error:
                texts.append(str(error))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    return texts


def test_a_layer_made_before_privileges_were_dropped_says_so():
    texts = in_own_shm(drop_privileges_after)
    assert len(texts) == 3
    for text in texts:
        assert "user 0" in text
        assert "user {0}".format(ANN) in text


# -- who was there before us --------------------------------------------------------------------


def squat(what, name, mode):
    """Take a name, as somebody who wants to read along or to be in the way."""
    os.umask(0)
    if what == "memory":
        posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=mode, size=8192).close_fd()
    elif what == "semaphore":
        posix_ipc.Semaphore(name, posix_ipc.O_CREX, mode=mode, initial_value=1).close()
    else:
        IPCChannelLayer("p", mode=mode, **SMALL).close()


def come_second(user, what, name, mode):
    as_user(EVE, EVE, squat, what, name, mode).result()
    squatted = files()
    texts = [as_user(user, user, refusal_of, mode=ours).result() for ours in (0o600, 0o660)]
    assert [found for found in files() if found[2] == EVE] == squatted
    return texts


@pytest.mark.parametrize("user", [ANN, 0], ids=["user", "root"])
@pytest.mark.parametrize("mode", [0o600, 0o666], ids=["0600", "0666"])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("what", ["memory", "semaphore", "layer"])
def test_names_taken_before_us_are_refused(what, name, mode, user):
    """Also where we would admit others of our group: the squatter is not in it."""
    for text in in_own_shm(come_second, user, what, name, mode):
        assert "user {0}".format(EVE) in text
        assert "another prefix" in text


# -- opened on purpose --------------------------------------------------------------------------


def exchange_with(names, mode, rounds):
    """Answer so many messages; how long each was under way."""
    channel_in, channel_out = names
    os.umask(0o077)
    times = []
    with IPCChannelLayer("p", mode=mode, block_timeout=20, **SMALL) as layer:
        for _ in range(rounds):
            channel, message = layer.receive([channel_in], block=True)
            times.append(time.time() - message[u"at"])
            assert channel == channel_in
            # The other one waits by then: it is to be woken, not to find it there.
            time.sleep(0.02)
            layer.send(channel_out, {"at": time.time()})
        layer.group_add(u"g", channel_in)
    return times


def exchange(first, second, mode):
    """Two users, each (uid, gid, further groups...), send each other messages."""
    children = []
    try:
        for user, names in ((first, (u"a", u"b")), (second, (u"b", u"a"))):
            children.append(
                as_user(user[0], user[1], exchange_with, names, mode, 7, groups=user[2:])
            )
            wait_for_bells(len(children), children)
        found = files()
        third = as_user(EVE, EVE, refusal_of, mode=mode).result()
        as_user(first[0], first[1], start_it, mode, groups=first[2:]).result()
        return [child.result() for child in children] + [found, third]
    finally:
        end(children)


def start_it(mode):
    with IPCChannelLayer("p", mode=mode, **SMALL) as layer:
        layer.send(u"a", {"at": time.time()})


@pytest.mark.parametrize(
    "first, second",
    [((ANN, TEAM), (BEN, TEAM)), ((ANN, TEAM), (BEN, BEN, TEAM)), ((0, TEAM), (BEN, TEAM))],
    ids=["one group", "one has it besides", "with root"],
)
def test_two_users_of_one_group_exchange_messages(first, second):
    one, two, found, third = in_own_shm(exchange, first, second, 0o660)
    # Either looks by itself once a second. That few took so long means that they were woken.
    assert sorted(one + two)[len(one + two) // 2] < 0.5
    assert {(bits, gid) for _, bits, _, gid in found} == {(0o660, TEAM)}
    owners = {uid for name, _, uid, _ in found if name.endswith(".bell")}
    assert owners == {first[0], second[0]}
    assert "user {0}".format(first[0]) in third
    assert "another prefix" in third


def in_no_common_group():
    as_user(ANN, ANN, start_it, 0o660, groups=[TEAM]).result()
    return as_user(BEN, BEN, refusal_of, mode=0o660, groups=[TEAM]).result()


def test_a_group_that_is_not_that_of_the_files_is_named():
    """Files get their maker's first group; that both are in another one does not help."""
    text = in_own_shm(in_no_common_group)
    assert "user {0}".format(ANN) in text
    assert "group {0}".format(ANN) in text


def test_mode_0666_admits_everybody():
    one, two, found, third = in_own_shm(exchange, (ANN, ANN), (BEN, BEN), 0o666)
    assert sorted(one + two)[len(one + two) // 2] < 0.5
    assert {bits for _, bits, _, _ in found} == {0o666}
    assert third == ""


def receive_one(channel):
    with IPCChannelLayer("p", mode=0o660, block_timeout=20, **SMALL) as layer:
        return layer.receive([channel], block=True)


def send_to_the_dead():
    """The receiver was another user's, and its FIFO stays in a sticky folder."""
    dead = as_user(ANN, TEAM, receive_one, u"x")
    wait_for_bells(1, [dead])
    dead.kill(signal.SIGKILL)
    (left,) = [name for name, _, _, _ in files() if name.endswith(".bell")]
    living = as_user(BEN, TEAM, receive_one, u"x")
    try:
        wait_for_bells(2, [living])

        def send():
            with IPCChannelLayer("p", mode=0o660, **SMALL) as layer:
                layer.send(u"x", {"n": 1})
                # Once more, when it has been struck off.
                layer.send(u"y", {"n": 2})
                return layer.receive([u"y"]), layer.check()

        result = as_user(BEN, TEAM, send).result()
        started = time.time()
        found = living.result()
        assert left in os.listdir("/dev/shm")
        return result, found, time.time() - started
    finally:
        end([living])


def test_a_dead_receiver_of_another_user_is_passed_over():
    sent, found, waited = in_own_shm(send_to_the_dead)
    assert sent == ((u"y", {u"n": 2}), [])
    assert found == (u"x", {u"n": 1})
    assert waited < 0.9


PROTECTED = "/proc/sys/fs/protected_regular"


def test_two_users_where_the_system_protects_files_in_sticky_folders():
    """With fs.protected_regular (systemd's default) O_CREAT opens no file of another user there."""
    with open(PROTECTED) as setting:
        before = setting.read()
    try:
        if before.strip() == "0":
            try:
                with open(PROTECTED, "w") as setting:
                    setting.write("1")
            except (OSError, IOError) as error:
                pytest.skip("cannot switch fs.protected_regular on: {0}".format(error))
        one, two, _, _ = in_own_shm(exchange, (ANN, TEAM), (BEN, TEAM), 0o660)
    finally:
        if before.strip() == "0":
            with open(PROTECTED, "w") as setting:
                setting.write(before)
    assert len(one + two) == 14


# -- what is no segment and no semaphore -------------------------------------------------------


def put_in_the_way(kind, path, victim):
    """Make something else of that name."""
    if kind == "symlink":
        with open(victim, "wb") as file:
            file.write(b"precious" * 1024)
        os.symlink(victim, path)
    elif kind == "dangling symlink":
        os.symlink(victim, path)
    elif kind == "folder":
        os.mkdir(path)
    elif kind == "FIFO":
        os.mkfifo(path, 0o600)
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(path)
    elif kind == "device":
        os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    elif kind == "short file":
        with open(path, "wb") as file:
            file.write(b"x")


def meet(kind, file_name, victim):
    put_in_the_way(kind, "/dev/shm/" + file_name, victim)
    before = os.lstat("/dev/shm/" + file_name)
    text = refusal_of()
    after = os.lstat("/dev/shm/" + file_name)
    for what in ("st_ino", "st_size", "st_uid", "st_mtime"):
        assert getattr(before, what) == getattr(after, what)
    return text


@pytest.mark.parametrize("file_name", ["p-messages", "sem.p-messages", "p-groups", "sem.p-groups"])
@pytest.mark.parametrize(
    "kind", ["symlink", "dangling symlink", "folder", "FIFO", "socket", "device", "short file"]
)
def test_what_is_no_segment_is_told(kind, file_name, tmpdir):
    victim = str(tmpdir.join("victim"))
    text = in_own_shm(meet, kind, file_name, victim)
    assert file_name.replace("sem.", "/") in text
    assert "another prefix" in text
    if kind == "symlink":
        with open(victim, "rb") as file:
            assert file.read() == b"precious" * 1024
    else:
        assert not os.path.exists(victim)


def use_beside_a_wild_semaphore(content):
    """Somebody wrote over the semaphores: everything works, if not as fast."""
    for name in NAMES:
        with open("/dev/shm/sem." + name.strip("/"), "wb") as file:
            file.write(content)
    layer = IPCChannelLayer("p", **SMALL)

    def count():
        with IPCChannelLayer("p", **SMALL) as mine:
            for number in range(20):
                mine.send(u"x", {"n": number})

    children = [Child(count) for _ in range(3)]
    for child in children:
        child.result()
    found = []
    while True:
        channel, message = layer.receive([u"x"])
        if channel is None:
            break
        found.append(message[u"n"])
    assert sorted(found) == sorted(list(range(20)) * 3)
    assert layer.check() == []


@pytest.mark.slow
def test_a_semaphore_of_any_content(campaign):
    """The lock does not rest on it: what it holds costs time at most."""
    contents = [b"\0" * 32, b"\xff" * 32]
    contents += [
        bytes(bytearray(campaign.random.getrandbits(8) for _ in range(32)))
        for _ in range(campaign.amount(4, 200))
    ]
    for content in contents:
        in_own_shm(use_beside_a_wild_semaphore, content)
    campaign.note("{0} semaphores".format(len(contents)))
