"""The scheduler: takes requests, runs the core, and moves tensors to and from the devices."""
