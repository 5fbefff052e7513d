# -*- coding: utf-8 -*-
"""What the package is and needs.

Works with every setuptools from 44 (the last for Python 2.7) to today's: so the metadata
is here, not in pyproject.toml, and nothing but the standard library and setuptools is used.
"""
import io
import os
import re

from setuptools import setup

HERE = os.path.dirname(os.path.abspath(__file__))


def read(*parts):
    with io.open(os.path.join(HERE, *parts), encoding="utf-8") as stream:
        return stream.read()


def version():
    # Read as text: to import the package takes what it depends on.
    found = re.search(r'^__version__ = "([^"]+)"$', read("asgi_ipc", "__init__.py"), re.MULTILINE)
    if found is None:
        raise RuntimeError('asgi_ipc/__init__.py has no line: __version__ = "..."')
    return str(found.group(1))


CHANNELS1 = [
    "asgiref>=1.1.2,<2",
    "channels>=1.1.8,<2",
    "daphne>=1.4.2,<2",
]
CHANNELS = [
    "channels>=3.0.5",
]
# What examples/chat needs, on Python 3.9 and later.
EXAMPLE = [
    "Django>=4.2",
    "channels>=4.0",
    "daphne>=4.0",
]
BENCH = [
    "channels>=4",
    "channels_lite[aio]",
    "channels_redis>=4",
    "diskcache",
    "faster-fifo",
    "matplotlib",
    "rich",
]
# For `asgi-ipc`: a screen for `top`, and completion in bash and zsh.
CLI = [
    'argcomplete>=3; python_version >= "3.8"',
    'rich>=10; python_version >= "3.8"',
]
# For `asgi-ipc bridge`, on Python 3.8 and later.
REDIS = [
    "cryptography",
    "redis>=5",
]
TESTS = [
    "asgiref==1.1.2",
    "hypothesis",
    'mock<4; python_version < "3"',
    "prometheus_client>=0.4",
    "psutil",
    "pytest>=4.6.11",
    "pytest-timeout",
    "pytest-xdist",
]

setup(
    name="asgi_ipc",
    version=version(),
    description="A channel layer for Django Channels in POSIX shared memory: no server needed",
    long_description=read("README.rst"),
    long_description_content_type="text/x-rst",
    author="the asgi_ipc developers",
    license="BSD-3-Clause",
    keywords="asgi channels django shared-memory ipc websocket",
    packages=["asgi_ipc", "asgi_ipc._shm", "asgi_ipc.bridge", "asgi_ipc.commands"],
    package_data={"asgi_ipc": ["py.typed", "*.pyi"], "asgi_ipc._shm": ["*.pyi"]},
    zip_safe=False,
    python_requires=">=2.7, !=3.0.*, !=3.1.*, !=3.2.*, !=3.3.*",
    install_requires=[
        # Channels 1 on Python before 3.8 may bring asgi_redis, which breaks beside 1.0.
        'msgpack>=0.5.6,<1.0; python_version < "3.8"',
        'msgpack>=0.5.6; python_version >= "3.8"',
        # Later releases neither build on the Pythons before the one in the marker, nor say
        # so to their pip, which would take them.
        'posix_ipc>=1.0.5,<1.1; python_version < "3.6"',
        'posix_ipc>=1.0.5,<1.2; python_version == "3.6"',
        'posix_ipc>=1.0.5,<2; python_version >= "3.7"',
        "six>=1.10",
    ],
    extras_require={
        "bench": BENCH,
        "channels": CHANNELS,
        "cli": CLI,
        "channels1": CHANNELS1,
        "example": EXAMPLE,
        "redis": REDIS,
        "prometheus": ["prometheus_client>=0.4"],
        "twisted": ["Twisted>=17.1"],
        "tests": TESTS,
        "dev": TESTS + ['tox==4.5.1.1; python_version >= "3.7"'],
    },
    entry_points={"console_scripts": ["asgi-ipc = asgi_ipc.cli:main"]},
    # One wheel for Python 2 and 3. (The older word for it, universal, is deprecated.)
    options={"bdist_wheel": {"python_tag": "py2.py3"}},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Web Environment",
        "Framework :: AsyncIO",
        "Framework :: Django",
        "Framework :: Django :: 1.11",
        "Framework :: Django :: 3.2",
        "Framework :: Django :: 4.2",
        "Framework :: Django :: 5.2",
        "Intended Audience :: Developers",
        "Operating System :: MacOS",
        "Operating System :: POSIX",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python",
        "Programming Language :: Python :: 2",
        "Programming Language :: Python :: 2.7",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.6",
        "Programming Language :: Python :: 3.7",
        "Programming Language :: Python :: 3.8",
        "Programming Language :: Python :: 3.9",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Internet :: WWW/HTTP",
        "Topic :: Software Development :: Libraries :: Python Modules",
        "Typing :: Typed",
    ],
)
