"""Judges from the records whether a result is valid: laws, percentiles, correctness, verdict."""
