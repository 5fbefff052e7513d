"""``python -m benchmarks``: every benchmark that needs nothing but the package."""
import sys

from benchmarks import flat_cost

if __name__ == "__main__":
    sys.exit(flat_cost.main())
