"""Stand-ins for the vendor's SDK: its binding, its compiler and its devices.

This is a package, so that pytest does not put the folder on `sys.path`: a test must ask for the
binding.
"""
