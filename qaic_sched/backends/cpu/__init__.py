"""The CPU: the backend over ONNX Runtime, which is imported when a model is opened."""

from qaic_sched.backends.cpu.backend import CpuBackend

__all__ = ["CpuBackend"]
