"""Simulated cards: devices described by a `.sim.yaml` file, modelled on the event loop's timers."""

from qaic_sched.backends.sim.backend import SimBackend

__all__ = ["SimBackend"]
