"""Simulated cards: devices modelled on the event loop's timers, described by a `.sim.yaml` file."""

from qaic_sched.backends.sim.backend import SimBackend

__all__ = ["SimBackend"]
