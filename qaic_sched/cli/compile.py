"""`qaic-sched compile`: compile a model without running it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from qaic_sched.backends.choose import choose_kind, compiler_for, find_model
from qaic_sched.backends.compiling.compile import compile_model
from qaic_sched.backends.compiling.container import kind_of
from qaic_sched.cli.ctrl_c import INTERRUPTED, run_async
from qaic_sched.cli.output import print_json
from qaic_sched.config.layers import make_config
from qaic_sched.errors import ConfigError

if TYPE_CHECKING:
    from qaic_sched.config.keys import Config

__all__ = ["compile_"]


def compile_(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="ONNX file, or pkg://package/path/to/model.onnx.")
    ],
    options: Annotated[
        Path | None,
        typer.Option("--options", metavar="FILE", help="YAML file of model and compiler options."),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            "--backend", metavar="cpu|aic", help="What to compile for; default: a card if present."
        ),
    ] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option(
            "--output-dir", metavar="DIR", help="Folder for the program; default: the user's cache."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compile a model and print the path of the program.

    Reuses a program that was compiled from the same model and options. Options on the command line
    override those of the file.

    Ctrl-C stops the compiler and removes its unfinished files.
    """
    given: dict[str, Any] = {"backend": backend, "output_dir": output_dir}
    given = {key: value for key, value in given.items() if value is not None}
    config = make_config(model, options_path=options, **given)
    path = find_model(config.model)
    kind = _kind(config, path)
    try:
        program = run_async(compile_model(path, compiler_for(kind), config.options))
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    if as_json:
        print_json({"kind": kind, "model": path, "program": program})
    else:
        print(program)


def _kind(config: Config, path: str) -> Literal["cpu", "aic"]:
    """Return the kind of device to compile for. Raises `ConfigError` if nothing needs compiling."""
    kind = choose_kind(config.backend, path)
    if kind == "sim":
        raise ConfigError(f"model: {path} describes simulated cards, which need no compiling")
    if kind_of(path) is not None:
        raise ConfigError(f"model: {path} is already compiled")
    return "aic" if kind == "aic" else "cpu"
