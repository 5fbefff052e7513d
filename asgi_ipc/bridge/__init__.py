"""The bridge: groups and process channels reach other machines, by way of Redis.

A program of its own, ``asgi-ipc bridge URL``: no process of the site opens a connection. For Python
3.8 and later with redis-py (the extra ``redis``); nothing outside of this package imports it but
the command.

::

    envelope   what an entry of a stream is, and what is refused
    scripts    what Redis is to do in one piece
    link       the connection to Redis: one answer, or an error
    station    this machine's side: shared memory, the lease, whose turn it is
    outgoing   from the outbox to the streams
    incoming   from the streams to the channels here
    sharing    normal channels that machines share
    program    all of it put together, from start to end

Terms: a *node* is the shared memory of one prefix on one machine; an *entry* is a message in a
stream of Redis. What makes an entry go out once, and arrive once, is in docs/design.rst.
"""
