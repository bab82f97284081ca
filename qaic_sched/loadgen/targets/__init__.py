"""What can be measured: a scheduler in this process, or a server."""
