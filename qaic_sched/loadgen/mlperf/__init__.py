"""Runs under MLPerf's own load generator."""
