"""The example's settings, with messages that nobody finds too old.

On a busy machine a burst to a crowd takes longer to be heard than a message of the example may
wait; what is tested is that none is lost or changes places.
"""
from mysite.settings import *  # noqa: F403
from mysite.settings import CHANNEL_LAYERS

CHANNEL_LAYERS["default"]["CONFIG"]["expiry"] = 3600
