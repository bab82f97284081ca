"""Counters and latency histograms, and their forms of output."""
