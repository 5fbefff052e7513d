"""The benchmark's modules, for the tests of it and for those that borrow from it."""
import importlib
import os
import sys

PROJECT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def benchmark(name):
    """A module of the benchmark, which is not installed."""
    sys.path.insert(0, PROJECT)
    try:
        return importlib.import_module("benchmarks." + name)
    finally:
        sys.path.remove(PROJECT)
