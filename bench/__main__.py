"""`python -m bench`: run all benchmarks, or the named ones."""

import sys

from bench.suite import main

if __name__ == "__main__":
    sys.exit(main())
