"""The report of a run as plain data, and the host that it was made on."""
