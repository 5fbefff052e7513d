"""For processes under libfaketime, which have this folder first on their path."""
import select
import time


def _sleep(seconds):
    # libfaketime 0.9.10 refuses how Python sleeps since 3.11.
    select.select([], [], [], seconds)


time.sleep = _sleep
