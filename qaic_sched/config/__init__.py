"""Configuration: the keys, their defaults, and how a file and keywords become a `Config`."""
