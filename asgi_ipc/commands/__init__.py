"""The commands of ``asgi-ipc``, in groups: each module adds its own to the command line.

``look`` and ``contents`` look and change nothing, ``act`` acts, ``top`` looks again and again,
``doctor`` judges, ``bench`` measures. What they share: ``output`` (tables, units, JSON) and
``jsonform`` (messages as JSON). They know nothing of each other.
"""
