"""Runs under MLPerf's load generator, LoadGen."""
