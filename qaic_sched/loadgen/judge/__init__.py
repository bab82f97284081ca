"""Decides from the records whether a result holds: laws, percentiles, correctness, verdict."""
