"""Configuration: the keys, their defaults, and how files and keyword options become a `Config`."""
