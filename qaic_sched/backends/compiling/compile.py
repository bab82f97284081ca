"""Compiles a model once, and reuses the result for that model and options, across processes.

Rules of this file:
- A result is valid for the content of the model, the options, the kind of device and the compiler
  that made it; the path and the name of the model do not matter.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from qaic_sched.backends.compiling.container import find
from qaic_sched.backends.compiling.folder import (
    CompileRecord,
    FolderError,
    Recipe,
    digest_of,
    finished,
    install,
    making,
    owned,
)
from qaic_sched.backends.compiling.weights import external_files
from qaic_sched.backends.threads import in_thread
from qaic_sched.errors import CompileError, ConfigError

if TYPE_CHECKING:
    from qaic_sched.config.keys import ModelOptions

__all__ = ["Compiler", "compile_model"]

logger = logging.getLogger("qaic_sched")

NOT_OF_THE_PROGRAM = {"compile", "output_dir", "oversubscription_name"}
"""Options that do not change the compiled program."""


class Compiler(NamedTuple):
    """The compiler for one kind of device."""

    kind: Literal["cpu", "aic"]
    version: Callable[[], str | None]
    """Identifies the compiler; None if there is none, in which case results are only reused."""
    run: Callable[[str, ModelOptions, Path], Awaitable[None]]
    """Creates the folder, with the program in it."""


async def compile_model(model_path: str, compiler: Compiler, options: ModelOptions) -> str:
    """Compile an ONNX file into `options.output_dir`; returns the path of the program.

    An earlier result for this model and these options is reused, any other is replaced. Without
    `output_dir`, each has a folder in the user's cache. Raises `ConfigError` if the model, the
    options or the folder cannot be used, `CompileError` if the compiler fails.
    """
    recipe = await in_thread(partial(_recipe, model_path, compiler.kind, options))
    folder = Path(options.output_dir or _default_folder(model_path, recipe))
    version = await in_thread(compiler.version)
    look = partial(finished, folder, recipe, version)
    program = await in_thread(look)
    if program is not None:
        return program
    async with making(folder) as work:
        # The previous holder of the lock may have made this program.
        program = await in_thread(look)
        if program is not None:
            return program
        owned(folder)  # before the work, not after it
        made = work / "made"
        await compiler.run(model_path, options, made)
        record = await in_thread(partial(_record_of, model_path, recipe, str(version), made))
        program = install(folder, made, record)
    logger.info("compiled %s for %s: %s", model_path, compiler.kind, program)
    return program


def _recipe(model_path: str, kind: str, options: ModelOptions) -> Recipe:
    known = msgspec.to_builtins(options, enc_hook=str)
    known.update(known.pop("compiler"))
    given = {key: value for key, value in known.items() if key not in NOT_OF_THE_PROGRAM}
    try:
        files = {
            path: digest_of(path)
            for path in [*_input_files(given), *external_files(model_path)]
            if Path(path).is_file()
        }
        digest = digest_of(model_path)
    except OSError as error:
        problem = f"{error.filename} cannot be read: {error.strerror}"
        raise ConfigError(f"model {model_path}: {problem}") from error
    # Through JSON, like the recipe in the record that this is compared with.
    return Recipe(kind, digest, json.loads(json.dumps(given, default=str)), files)


def _input_files(options: dict[str, Any]) -> list[str]:
    """The files that the options name, without those that the compiler writes."""
    return [
        value
        for key, value in options.items()
        if isinstance(value, str) and "dump" not in key.split("_")
    ]


def _default_folder(model_path: str, recipe: Recipe) -> Path:
    text = json.dumps(msgspec.to_builtins(recipe), sort_keys=True)
    name = f"{Path(model_path).stem}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    try:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError as error:
        raise FolderError("output_dir: add one, because this user has no home directory") from error
    return Path(cache, "qaic_sched", name)


def _record_of(model_path: str, recipe: Recipe, version: str, made: Path) -> CompileRecord:
    try:
        program = Path(find(str(made)))
    except ConfigError as error:
        raise CompileError(f"model {model_path}: the compiler left no program: {error}") from error
    files = sorted(path.name for path in made.iterdir())
    return CompileRecord(
        str(Path(model_path).absolute()), recipe, version, program.name, digest_of(program), files
    )
