"""`python -m qaic_sched` is the command `qaic-sched`."""

from __future__ import annotations

import sys

from qaic_sched.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
