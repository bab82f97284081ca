"""Counters and latency histograms, and the forms in which they are shown."""
