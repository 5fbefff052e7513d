"""Shared memory without a notion of channels: words, slots, owners, locks and doorbells.

Nothing in this package may import from the package above it, except ``asgi_ipc.errors``;
a test asserts it.
"""
