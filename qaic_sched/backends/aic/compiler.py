"""Compiles for cards, with the vendor's compiler as a process of its own."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL, STDOUT
from typing import TYPE_CHECKING, Any, cast

import anyio

from qaic_sched.backends.compiling.compile import Compiler
from qaic_sched.errors import CompileError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anyio.abc import ByteReceiveStream

    from qaic_sched.config.keys import ModelOptions

__all__ = ["AIC_COMPILER", "aic_version", "arguments", "compile_aic"]

logger = logging.getLogger("qaic_sched")

NAMES = ("qaic-compile", "qaic-exec")
FOLDER = "/opt/qti-aic/exec"
"""Where the vendor's SDK puts its compiler, which is on nobody's PATH."""
NUM_LAST_LINES = 10

ALWAYS = {"aic_hw": True, "aic_hw_version": "2.0", "compile_only": True}
"""Flags of every compile, unless the options say otherwise.

Assumption (not verified on hardware): without `-compile-only` the compiler would also run the
program, on a card.
"""


def aic_version() -> str | None:
    """What tells one compiler from another; None where there is none.

    Assumption (not verified on hardware): it cannot be asked for its version, so its file stands
    for it.
    """
    path = executable()
    if path is None:
        return None
    stat = os.stat(path)
    return f"{path}, {stat.st_size} bytes, modified at {stat.st_mtime_ns} ns"


async def compile_aic(model_path: str, options: ModelOptions, folder: Path) -> None:
    """Let the compiler make `folder`, with the program in it; cancelled, the compiler is killed.

    Assumption (not verified on hardware): the compiler wants to make the folder itself.
    `ConfigError` where no compiler is there, or one option cannot be told to it; `CompileError`,
    with its last lines, where it fails.
    """
    program = executable()
    if program is None:
        raise ConfigError(
            f"compiling for cards needs {' or '.join(NAMES)} of the vendor's Apps SDK, which is "
            f"neither on the PATH nor in {FOLDER}: install it, or give a compiled programqpc.bin"
        )
    command = [program, *arguments(model_path, options, folder)]
    logger.info("compiling, which can take long: %s", shlex.join(command))
    status, said = await _run(command)
    if status:
        how = "was ended by signal" if status < 0 else "failed with exit status"
        name = f"{Path(program).name} {how} {abs(status)}"
        raise CompileError(f"model {model_path}: {name}: {_last_lines(said)}")


async def _run(command: list[str]) -> tuple[int, str]:
    """The exit status of a command, and all that it said; cancelled, it is killed."""
    try:
        # No input: a compiler that asks something must not wait for our terminal.
        process = await anyio.open_process(command, stdin=DEVNULL, stderr=STDOUT)
    except OSError as error:
        raise ConfigError(f"{command[0]} cannot be run: {error.strerror}") from error
    async with process:
        try:
            said = [chunk async for chunk in cast("ByteReceiveStream", process.stdout)]
            status = await process.wait()
        except BaseException:
            # anyio kills it only where one of its own scopes was cancelled, not a task.
            with suppress(ProcessLookupError):
                process.kill()
            raise
    return status, b"".join(said).decode(errors="replace")


def executable() -> str | None:
    """The path of the compiler; None where there is none."""
    folders = os.pathsep.join(filter(None, [os.environ.get("PATH"), FOLDER]))
    return next(filter(None, (shutil.which(name, path=folders) for name in NAMES)), None)


def arguments(model_path: str, options: ModelOptions, folder: Path) -> list[str]:
    """What the compiler is told; `ConfigError` names an option that cannot be told to it."""
    if "aic_binary_dir" in options.compiler:
        raise ConfigError("aic_binary_dir: this folder is called output_dir here")
    values = {
        **ALWAYS,
        "aic_num_cores": options.aic_num_cores,
        "convert_to_fp16": options.convert_to_fp16,
        "onnx_define_symbol": options.onnx_define_symbol,
        **options.compiler,
    }
    flags = [flag for key, value in values.items() for flag in _flags(key, value)]
    return [f"-m={model_path}", *sorted(flags), f"-aic-binary-dir={folder}"]


def _flags(key: str, value: Any) -> Iterator[str]:
    """The flags of one option, as the vendor's own scripts spell them.

    Assumption (not verified on hardware): a list is one flag with commas, as public command lines
    have it for nodes and cluster sizes; a list of mappings (`model_inputs`) is one flag for each.
    """
    flag = f"-{key.replace('_', '-')}"
    if value is True:
        yield flag
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield f"{flag}={name},{_text(key, inner)}"
    elif isinstance(value, (list, tuple)) and any(isinstance(each, dict) for each in value):
        for each in value:
            yield f"{flag}={','.join(_text(key, inner) for inner in dict(each).values())}"
    elif isinstance(value, (list, tuple)):
        yield f"{flag}={','.join(_text(key, inner) for inner in value)}"
    elif value is not False and value is not None:
        yield f"{flag}={_text(key, value)}"


def _text(key: str, value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{','.join(_text(key, inner) for inner in value)}]"
    if isinstance(value, dict):
        raise ConfigError(f"{key}: {value!r} is nested too deep to be told to the compiler")
    return str(value)


def _last_lines(said: str) -> str:
    lines = [line for line in said.splitlines() if line.strip()][-NUM_LAST_LINES:]
    return "\n".join(lines) or "it said nothing"


AIC_COMPILER = Compiler("aic", aic_version, compile_aic)
