"""``bridge``: the program that joins this machine's prefix to those of other machines.

Knows the command line; what the program does is in the package ``asgi_ipc.bridge``, which is for
Python 3.8 and later, and is imported when it is run.
"""
import contextlib
import logging
import sys

from asgi_ipc import access, names

ABOUT = """\
Joins the prefix to those of the same name on other machines, by way of Redis (6.2 or later): what
is sent to a group reaches its members on all machines, and a process channel can be sent to from
each. It runs until it is interrupted (SIGTERM), beside the processes of the site, whose settings
stay as they are. It needs Python 3.8 and: pip install 'asgi_ipc[redis]'

It waits until the site has made its shared memory, goes on whenever Redis goes away and comes
back, and starts anew when the shared memory is removed. Of several bridges of a prefix one works,
and the others stand by. `asgi-ipc stat` shows how it does.

    asgi-ipc bridge redis://redis.example:6379/0
    asgi-ipc bridge rediss://user:secret@redis.example/0 --prefix mysite --share 'jobs.*'
    asgi-ipc bridge redis://sentinel.example:26379/0 --sentinel mymaster

Whoever can write to that Redis can send to the site. With --key-file, only who has a key.

Exit status: 0 when it was told to end; 1 on an error.
"""
DAY = 86400


def register(commands):
    """Add the command to the command line."""
    command = commands.add("bridge", bridge, "join other machines through Redis", ABOUT)
    command.add_argument("url", metavar="URL", help="redis://, rediss:// or unix://, as redis-py")
    command.add_argument(
        "--prefix", default="asgi", help="the layer's option prefix (default asgi)"
    )
    command.add_argument(
        "--name", help="what the machines have in common, begins the keys (default: the prefix)"
    )
    command.add_argument(
        "--share", action="append", default=[], metavar="PATTERN",
        help="normal channels whose messages any machine may have, as a glob; may be repeated",
    )  # fmt: skip
    command.add_argument(
        "--key-file", metavar="FILE",
        help="Fernet keys, one a line: the first encrypts what is sent, each decrypts",
    )  # fmt: skip
    command.add_argument(
        "--outbox", type=commands.positive_number, default=10000, metavar="N",
        help="messages kept while Redis is away or slow (default 10000)",
    )  # fmt: skip
    command.add_argument(
        "--expiry", type=commands.seconds, default=access.EXPIRY, metavar="SECONDS",
        help="the layer's option expiry, which no message outlives (default 60)",
    )  # fmt: skip
    command.add_argument(
        "--capacity", type=commands.positive_number, default=access.CAPACITY, metavar="N",
        help="the layer's option capacity (default 100)",
    )  # fmt: skip
    command.add_argument(
        "--channel-capacity", type=commands.pattern_capacity, action="append", default=[],
        metavar="PATTERN=N",
        help="as in the layer's option channel_capacity; may be repeated, the first match counts",
    )  # fmt: skip
    command.add_argument("--sentinel", default="", metavar="NAME", help="URL is a sentinel's")
    command.add_argument("--cluster", action="store_true", help="URL is of a cluster's server")
    command.add_argument("--quiet", action="store_true", help="log warnings only")


def bridge(arguments):
    """Run ``bridge``."""
    if sys.version_info < (3, 8):
        raise ValueError("the bridge needs Python 3.8 or later")
    try:
        from asgi_ipc.bridge import envelope, program
    except ImportError as error:
        raise ValueError(
            "the bridge needs redis-py ({0}): pip install 'asgi_ipc[redis]'".format(error)
        )
    prefix = access.checked(arguments.prefix)
    if not 1 <= arguments.expiry <= DAY:
        raise ValueError("--expiry has to be from 1 second to a day")
    settings = program.Settings(
        arguments.url,
        prefix,
        arguments.name or prefix,
        int(arguments.expiry * 1000),
        arguments.outbox,
        [pattern for pattern, _ in names.compile_capacities(dict.fromkeys(arguments.share, 1))],
        envelope.read_keys(arguments.key_file) if arguments.key_file else None,
        arguments.sentinel,
        arguments.cluster,
    )
    with _logging(logging.WARNING if arguments.quiet else logging.INFO):
        program.run(settings, lambda: _attached(prefix, arguments))
    return 0


@contextlib.contextmanager
def _attached(prefix, arguments):
    with access.stores(
        prefix,
        expiry=arguments.expiry,
        capacity=arguments.capacity,
        channel_capacity=arguments.channel_capacity,
    ) as found:
        yield found[1]


@contextlib.contextmanager
def _logging(level):
    logger = logging.getLogger("asgi_ipc")
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)
