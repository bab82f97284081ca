"""What `see_itself.py` imports."""

ANSWER = 42
