"""The asyncio front end: takes requests, runs the core, and moves tensors to the devices."""
