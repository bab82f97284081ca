"""The pure core: events in, commands out. No clock, no asyncio, no threads, no tensors.

Rules of this package:
- `SchedulerState.handle` is the only entry point. Everything else here is called from inside it.
- `now` is an argument, in seconds. No module here reads a clock or draws a random number.
- Counters are kept, not recomputed. `check_invariants` recomputes them in tests.

`state` opens with the theory of operation.
"""
