"""What a finding of ``doctor`` is.

Texts are sentences with the figures; a remedy is what to do, a command where there is one.
"""
from collections import namedtuple

OK, NOTE, WARNING, ERROR = "ok", "note", "warning", "error"
LEVELS = (OK, NOTE, WARNING, ERROR)

Finding = namedtuple("Finding", "level subject text remedy")
"""``subject``: what it is about, a few words. ``remedy``: "" where nothing has to be done."""


def fine(subject, text):
    """All is well."""
    return Finding(OK, subject, text, "")


def note(subject, text, remedy=""):
    """Worth to know."""
    return Finding(NOTE, subject, text, remedy)


def warning(subject, text, remedy):
    """Will be trouble one day."""
    return Finding(WARNING, subject, text, remedy)


def error(subject, text, remedy):
    """Is trouble now."""
    return Finding(ERROR, subject, text, remedy)
