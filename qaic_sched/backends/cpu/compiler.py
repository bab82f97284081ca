"""Compiles for the CPU: saves the model that ONNX Runtime has optimised as a program."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from qaic_sched.backends.compiling.compile import Compiler
from qaic_sched.backends.compiling.container import PROGRAM, write_cpu_program
from qaic_sched.backends.compiling.weights import external_files
from qaic_sched.backends.cpu.onnx_model import (
    ModelReader,
    first_line,
    import_onnxruntime,
    open_model,
)
from qaic_sched.backends.threads import in_thread
from qaic_sched.errors import CompileError, ConfigError

if TYPE_CHECKING:
    from pathlib import Path

    from qaic_sched.config.keys import ModelOptions

__all__ = ["CPU_COMPILER"]


def cpu_version() -> str:
    """ONNX Runtime with its version; `ConfigError` if it is not installed."""
    return f"onnxruntime {import_onnxruntime().__version__}"


async def compile_cpu(model_path: str, options: ModelOptions, folder: Path) -> None:
    """Create `folder` with the program in it.

    `ConfigError` if the model cannot run with these options, `CompileError` if ONNX Runtime cannot
    save it.
    """
    await in_thread(partial(_compile, model_path, options.onnx_define_symbol, folder))


def _compile(model_path: str, sizes: dict[str, int], folder: Path) -> None:
    if external_files(model_path):
        raise ConfigError(
            f"model {model_path}: keeps weights in separate files, which cannot be compiled for "
            f"the CPU: save it as one file (below 2 GB), or add `compile: false`"
        )
    ModelReader(model_path, sizes).read(1)
    folder.mkdir()
    saved = folder / "model.onnx"
    try:
        open_model(model_path, 1, sizes, saved_as=str(saved))
    except Exception as error:
        raise CompileError(
            f"model {model_path}: ONNX Runtime cannot compile it: {first_line(error)}"
        ) from error
    write_cpu_program(folder / PROGRAM, saved, sizes)
    saved.unlink()


CPU_COMPILER = Compiler("cpu", cpu_version, compile_cpu)
