"""The bounds that an issue sets on cost, as ratios measured side by side."""
import importlib
import os
import sys

import pytest


@pytest.mark.slow
def test_cost_is_flat(capsys):
    sys.path.insert(0, os.path.join(os.path.dirname(__file__), os.pardir))
    try:
        flat_cost = importlib.import_module("benchmarks.flat_cost")
    finally:
        del sys.path[0]
    assert flat_cost.main([]) == 0, capsys.readouterr().out
