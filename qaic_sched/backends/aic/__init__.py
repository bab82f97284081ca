"""Physical cards: the backend over the vendor's runtime, whose binding only `sdk` imports."""

from qaic_sched.backends.aic.backend import AicBackend

__all__ = ["AicBackend"]
