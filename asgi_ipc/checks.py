"""Django system checks: what is wrong with ``CHANNEL_LAYERS`` before a site finds out.

Knows Django's settings and the layers' options; attaches no shared memory, and looks at what is
there from outside. Whatever stands in the settings, the answer is a list of findings, never an
exception; each has a hint that says what to do. Layers that are not asgi_ipc's are passed over.

Errors: E001 settings of the wrong kind, E002 no BACKEND, E003 a BACKEND that cannot be imported,
E004 wrong options. Warnings: W001 the synchronous layer under Channels 2 or later, W002 the
asynchronous one under Channels 1, W003 /dev/shm too small, W004 too little of it free, W005 the
default prefix outside of DEBUG, W006 many workers with the default capacity, W007 many workers
with little message memory, W008 a segment that has another size, W009 one of another user.
"""
import os
from collections import namedtuple
from inspect import getcallargs

from django import conf
from django.core import checks
from django.utils.module_loading import import_string

from asgi_ipc import existing
from asgi_ipc._shm.segment import PAGE, round_up
from asgi_ipc.core import IPCChannelLayer
from asgi_ipc.options import Options, refuse

SYNCHRONOUS = "asgi_ipc.IPCChannelLayer"
ASYNCHRONOUS = "asgi_ipc.aio.IPCChannelLayer"
_FACES = {
    SYNCHRONOUS: SYNCHRONOUS,
    "asgi_ipc.core.IPCChannelLayer": SYNCHRONOUS,
    ASYNCHRONOUS: ASYNCHRONOUS,
}

MANY_WORKERS = 4
"""Worker processes from which on defaults made for development are worth a thought."""

SMALL_SHARE = 16 * 1024
"""Bytes: if full queues leave less for a message on average, memory ends before capacity does."""

WORKERS = "WEB_CONCURRENCY"
"""The environment variable by which Gunicorn, Uvicorn and others are told how many to start."""

Layer = namedtuple("Layer", "alias face config options")
"""One that is ours: its alias, which face, its CONFIG, and the checked ``Options``."""


def check_channel_layers(**_):
    """All findings; registered by ``apps.IPCConfig``."""
    found, layers = _read(getattr(conf.settings, "CHANNEL_LAYERS", {}))
    for layer in layers:
        found += _face(layer) + _segments(layer)
        if not conf.settings.DEBUG:
            found += _default_prefix(layer) + _many_workers(layer)
    return found + _memory(layers)


def _read(configured):
    """(findings, layers of ours that could be understood)."""
    if not _is_mapping(configured):
        return [_not_a_dict("CHANNEL_LAYERS", configured)], []
    found, layers = [], []
    for alias in sorted(configured, key=repr):
        layer = _layer(alias, configured[alias])
        if isinstance(layer, Layer):
            layers.append(layer)
        elif layer is not None:
            found.append(layer)
    return found, layers


def _layer(alias, setting):
    """A ``Layer``, None if it is not ours, or what is wrong."""
    where = "CHANNEL_LAYERS[{0!r}]".format(alias)
    if not _is_mapping(setting):
        return _not_a_dict(where, setting)
    backend = setting.get("BACKEND")
    if not backend or not hasattr(backend, "rpartition"):
        return _error(
            2,
            "{0} has no BACKEND, or one that is no text: {1!r}.".format(where, backend),
            "Give it the dotted name of a layer, such as {0!r}.".format(ASYNCHRONOUS),
        )
    face = _FACES.get(backend)
    if face is None:
        try:
            face = _face_of(import_string(backend))
        except Exception as error:  # noqa: BLE001 (whatever importing a foreign module raises)
            return _not_imported(where, backend, error)
        if face is None:
            return None
    config = setting.get("CONFIG", {})
    if not _is_mapping(config):
        return _not_a_dict(where + '["CONFIG"]', config)
    return _with_options(where, alias, backend, face, config)


def _with_options(where, alias, backend, face, config):
    names = _option_names()
    try:
        # On Python 2.7 there may be names that are no names there.
        config = {str(name): config[name] for name in config}
        known = {name: config[name] for name in config if name in names}
        if backend in _FACES:
            # A class derived from ours may have options of its own.
            refuse(set(config) - set(known), backend)
        values = getcallargs(IPCChannelLayer.__init__, None, **known)
        options = Options(*[values[name] for name in names])
    except (TypeError, ValueError) as error:
        return _error(
            4,
            "{0}: {1}".format(where, _text(error)),
            'Correct CONFIG; README.rst, "Options", tells of each option.',
        )
    return Layer(alias, face, config, options)


def _option_names():
    code = IPCChannelLayer.__init__.__code__
    return code.co_varnames[1 : code.co_argcount]


def _face_of(kind):
    """Which of our layers a class is derived from; None if it is from neither."""
    modules = [parent.__module__ for parent in getattr(kind, "__mro__", ())]
    if "asgi_ipc.core" in modules:
        return SYNCHRONOUS
    return ASYNCHRONOUS if "asgi_ipc.aio" in modules else None


def _face(layer):
    release = _channels_release()
    if release is None:
        return []
    if layer.face == SYNCHRONOUS and release >= 2:
        return [
            _warning(
                1,
                "CHANNEL_LAYERS[{0!r}] is the synchronous layer, of ASGI 1, and Channels {1} "
                "needs an asynchronous one.".format(layer.alias, release),
                "Set BACKEND to {0!r}; CONFIG may stay as it is.".format(ASYNCHRONOUS),
            )
        ]
    if layer.face == ASYNCHRONOUS and release < 2:
        return [
            _warning(
                2,
                "CHANNEL_LAYERS[{0!r}] is the asynchronous layer, and Channels {1} needs the "
                "synchronous one.".format(layer.alias, release),
                "Set BACKEND to {0!r}; CONFIG may stay as it is.".format(SYNCHRONOUS),
            )
        ]
    return []


def _channels_release():
    """The first number of Channels' version; None if there is no Channels."""
    try:
        import channels

        return int(channels.__version__.split(".")[0])
    except (ImportError, AttributeError, ValueError):
        return None


def _default_prefix(layer):
    if "prefix" in layer.config:
        return []
    return [
        _warning(
            5,
            "CHANNEL_LAYERS[{0!r}] has no prefix, and DEBUG is off: every site of this machine "
            "that sets none shares the prefix {1!r}, its channels and its groups.".format(
                layer.alias, layer.options.prefix
            ),
            'Name the site in CONFIG: "prefix": "mysite".',
        )
    ]


def _many_workers(layer):
    workers = _workers()
    options = layer.options
    found = []
    if workers >= MANY_WORKERS and not {"capacity", "channel_capacity"} & set(layer.config):
        found.append(
            _warning(
                6,
                "{0}={1}, DEBUG is off, and CHANNEL_LAYERS[{2!r}] has the default capacity: a "
                "process holds {3} unread messages for all of its clients together, and a group "
                "send drops what goes beyond.".format(
                    WORKERS, workers, layer.alias, options.capacity
                ),
                'See "refused" in `asgi-ipc stat {0}` under load, and set capacity in CONFIG to '
                "the messages that may come in while a process is busy ({1} is an "
                "answer, too).".format(options.prefix, options.capacity),
            )
        )
    if workers and options.message_memory // (workers * options.capacity) < SMALL_SHARE:
        found.append(
            _warning(
                7,
                "CHANNEL_LAYERS[{0!r}]: with {1}={2}, capacity={3} and message_memory={4}, full "
                "queues leave {5} bytes for a message, on average: memory may end before "
                "capacity does, and then it ends for all channels.".format(
                    layer.alias,
                    WORKERS,
                    workers,
                    options.capacity,
                    options.message_memory,
                    options.message_memory // (workers * options.capacity),
                ),
                "Raise message_memory, or lower capacity.",
            )
        )
    return found


def _workers():
    """How many worker processes the environment asks for; 0 if it does not say."""
    try:
        return max(0, int(os.environ.get(WORKERS, "")))
    except ValueError:
        return 0


def _segments(layer):
    options = layer.options
    found = []
    sizes = {"messages": options.message_memory, "groups": options.group_memory}
    for segment in existing.find(options.prefix):
        kind = segment.name.rpartition("-")[2]
        option = "message_memory" if kind == "messages" else "group_memory"
        if not _admitted(segment, options.mode):
            found.append(
                _warning(
                    9,
                    "The shared memory {0} of CHANNEL_LAYERS[{1!r}] belongs to user {2} and group "
                    "{3}, and mode={4:#o} does not admit this process, of user {5}.".format(
                        segment.name,
                        layer.alias,
                        segment.owner,
                        segment.group,
                        options.mode,
                        os.geteuid(),
                    ),
                    "Run the check as the site's user. If this is that user, have all processes "
                    "run as one, set mode to 0o660 in CONFIG for a group, or choose another "
                    "prefix.",
                )
            )
        elif segment.size != round_up(sizes[kind], PAGE):
            found.append(
                _warning(
                    8,
                    "The shared memory {0} of CHANNEL_LAYERS[{1!r}] has {2} bytes, so {3}={4} has "
                    "no effect.".format(
                        segment.name, layer.alias, segment.size, option, sizes[kind]
                    ),
                    "Stop the site, run `asgi-ipc rm {0}`, and start it again; or set {1} to what "
                    "is in force.".format(options.prefix, option),
                )
            )
    return found


def _admitted(segment, mode):
    """As attaching decides it, see ``_shm.opening``."""
    if segment.owner == os.geteuid():
        return True
    groups = [os.getegid()] + os.getgroups()
    bits = mode & segment.mode
    if os.geteuid() == 0:
        # Who may open anything still refuses what mode does not admit.
        bits = mode
    return bool(bits & 0o006 or (bits & 0o060 and segment.group in groups))


def _memory(layers):
    """Whether there is as much memory as all layers may take, each prefix once."""
    room = existing.room()
    prefixes = {layer.options.prefix: layer.options for layer in layers}
    if room is None or not prefixes:
        return []
    needed = sum(one.message_memory + one.group_memory for one in prefixes.values())
    held = sum(segment.memory for prefix in prefixes for segment in existing.find(prefix))
    if room.total < needed:
        return [
            _warning(
                3,
                "{0} has {1} bytes, and CHANNEL_LAYERS may take {2} (message_memory and "
                "group_memory): when it is full, messages are refused though the options allow "
                "them.".format(room.folder, room.total, needed),
                "Enlarge it (docker run --shm-size, shm_size in a Compose file, a memory volume "
                "at /dev/shm in Kubernetes), or lower message_memory and group_memory in CONFIG.",
            )
        ]
    if room.free + held < needed:
        return [
            _warning(
                4,
                "Of the {0} bytes of {1}, {2} are free or held by these layers, and "
                "CHANNEL_LAYERS may take {3} (message_memory and group_memory).".format(
                    room.total, room.folder, room.free + held, needed
                ),
                "See what fills it with `asgi-ipc ls` and `ls -l {0}`, remove what nobody uses "
                "(`asgi-ipc rm PREFIX`), or lower message_memory and group_memory.".format(
                    room.folder
                ),
            )
        ]
    return []


def _is_mapping(value):
    return hasattr(value, "keys") and hasattr(value, "__getitem__") and hasattr(value, "get")


def _not_a_dict(where, value):
    return _error(
        1,
        "{0} is no dict but of type {1}.".format(where, type(value).__name__),
        'Write it as Channels has it: {"default": {"BACKEND": "...", "CONFIG": {...}}}.',
    )


def _not_imported(where, backend, error):
    """An error if it is one of ours, by its name; of others, Channels tells."""
    if backend.partition(".")[0] != "asgi_ipc":
        return None
    return _error(
        3,
        "{0}: the BACKEND {1!r} cannot be imported: {2}".format(where, backend, _text(error)),
        "It is {0!r} for Channels 3 and later, and {1!r} for Channels 1.".format(
            ASYNCHRONOUS, SYNCHRONOUS
        ),
    )


def _text(error):
    try:
        return str(error)
    except UnicodeError:
        # Python 2.7, and a name in another script.
        return repr(error)


def _error(number, text, hint):
    return checks.Error(text, hint=hint, id="asgi_ipc.E{0:03d}".format(number))


def _warning(number, text, hint):
    return checks.Warning(text, hint=hint, id="asgi_ipc.W{0:03d}".format(number))
