"""Sends the planned requests and records the outcome of each."""
