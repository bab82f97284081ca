"""Targets of load tests: a scheduler in this process, or a server."""
