"""Sends the planned requests and records what became of each."""
