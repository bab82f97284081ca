"""Virtual time for tests of code that uses a scheduler. No other module imports this one."""

from __future__ import annotations

from qaic_sched.virtual_time import DeadlockError, VirtualLoop, run_virtual

__all__ = ["DeadlockError", "VirtualLoop", "run_virtual"]
