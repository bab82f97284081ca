"""The vendor's Session over one backend and one device."""

from __future__ import annotations

from qaic_sched.session.session import Session

__all__ = ["Session"]
