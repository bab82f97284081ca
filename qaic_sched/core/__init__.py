"""The pure core: events in, commands out. No clock, no asyncio, no threads, no tensors.

Rules of this package:
- `SchedulerState.handle` is the only door; everything else here is called from behind it.
- `now` is an argument, in seconds. Nothing here reads a clock or draws a random number.
- Counters are kept, never recomputed; `check_invariants` recomputes them in tests.
"""
