"""A module that `see_itself.py` imports."""

ANSWER = 42
