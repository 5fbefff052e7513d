"""A group chat on Django 1.11, Channels 1 and shared memory."""
