"""Compiles for cards, with the vendor's compiler in a separate process."""

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
"""The folder of the compiler in the vendor's SDK, which does not add it to the PATH."""
NUM_LAST_LINES = 10

ALWAYS = {"aic_hw": True, "aic_hw_version": "2.0", "compile_only": True}
"""Flags of every compile; the options override them.

Assumption (not verified on hardware): without `-compile-only` the compiler would also run the
program, on a card.
"""


def aic_version() -> str | None:
    """A string that identifies the compiler; None if there is none.

    Assumption (not verified on hardware): the compiler cannot report its version, so its file
    stands for it.
    """
    path = executable()
    if path is None:
        return None
    stat = os.stat(path)
    return f"{path}, {stat.st_size} bytes, modified at {stat.st_mtime_ns} ns"


async def compile_aic(model_path: str, options: ModelOptions, folder: Path) -> None:
    """Run the compiler, which creates `folder` with the program; cancellation kills it.

    Assumption (not verified on hardware): the compiler wants to create the folder itself.
    Raises `ConfigError` if there is no compiler or an option cannot be passed to it, `CompileError`
    with the compiler's last lines if it fails.
    """
    program = executable()
    if program is None:
        raise ConfigError(
            f"compiling for cards needs {' or '.join(NAMES)} of the vendor's Apps SDK, which is "
            f"neither on the PATH nor in {FOLDER}: install it, or give a compiled programqpc.bin"
        )
    command = [program, *arguments(model_path, options, folder)]
    logger.info("compiling, which can take long: %s", shlex.join(command))
    status, output = await _run(command)
    if status:
        how = "was killed by signal" if status < 0 else "failed with exit status"
        name = f"{Path(program).name} {how} {abs(status)}"
        raise CompileError(f"model {model_path}: {name}: {_last_lines(output)}")


async def _run(command: list[str]) -> tuple[int, str]:
    """The exit status of a command and its output; cancellation kills it."""
    try:
        # No input: a compiler that prompts must not wait for our terminal.
        process = await anyio.open_process(command, stdin=DEVNULL, stderr=STDOUT)
    except OSError as error:
        raise ConfigError(f"{command[0]} cannot be run: {error.strerror}") from error
    async with process:
        try:
            output = [chunk async for chunk in cast("ByteReceiveStream", process.stdout)]
            status = await process.wait()
        except BaseException:
            # anyio kills the process only if a scope of anyio was cancelled, not an asyncio task.
            with suppress(ProcessLookupError):
                process.kill()
            raise
    return status, b"".join(output).decode(errors="replace")


def executable() -> str | None:
    """The path of the compiler; None if there is none."""
    folders = os.pathsep.join(filter(None, [os.environ.get("PATH"), FOLDER]))
    return next(filter(None, (shutil.which(name, path=folders) for name in NAMES)), None)


def arguments(model_path: str, options: ModelOptions, folder: Path) -> list[str]:
    """The compiler's arguments; `ConfigError` names an option that cannot be passed to it."""
    if "aic_binary_dir" in options.compiler:
        raise ConfigError("aic_binary_dir: name the folder with output_dir instead")
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

    Assumption (not verified on hardware): a list is one flag with commas, as in public command
    lines for nodes and cluster sizes; a list of mappings (`model_inputs`) is one flag per mapping.
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
        raise ConfigError(
            f"{key}: {value!r} is nested too deeply for a flag of the compiler: flatten it"
        )
    return str(value)


def _last_lines(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()][-NUM_LAST_LINES:]
    return "\n".join(lines) or "it printed nothing"


AIC_COMPILER = Compiler("aic", aic_version, compile_aic)
