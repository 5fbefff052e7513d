"""Rooms to chat in, on Django, Channels and shared memory."""
