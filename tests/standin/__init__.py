"""Stand-ins for what only the vendor's SDK has.

A package, so that pytest puts not this folder on `sys.path` but the one above: a test that wants
the stand-in binding asks for it.
"""
