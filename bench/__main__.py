"""`python -m bench`: all benchmarks, or those that are named."""

import sys

from bench.suite import main

if __name__ == "__main__":
    sys.exit(main())
