"""The report of a run as plain data, its host, and the format of its numbers."""
