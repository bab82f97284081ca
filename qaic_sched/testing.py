"""What tests of code on a scheduler need: virtual time. No product module imports this one."""

from __future__ import annotations

from qaic_sched.virtual_time import DeadlockError, VirtualLoop, run_virtual

__all__ = ["DeadlockError", "VirtualLoop", "run_virtual"]
