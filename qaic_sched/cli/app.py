"""The typer application: every command with its example."""

from __future__ import annotations

from collections.abc import Callable

import typer

from qaic_sched.cli.bench import bench
from qaic_sched.cli.check import check
from qaic_sched.cli.compile import compile_
from qaic_sched.cli.devices import devices
from qaic_sched.cli.load import load
from qaic_sched.cli.replay import replay
from qaic_sched.cli.run import run

__all__ = ["command"]

EXAMPLES: dict[Callable[..., None], str] = {
    devices: "qaic-sched devices",
    run: "qaic-sched run magika.yaml --input files.npz --output labels.npz",
    bench: "qaic-sched bench magika.yaml --time 10",
    load: "qaic-sched load magika.yaml --rate 100 --slo p99=50ms --report out",
    replay: "qaic-sched replay events.jsonl",
    check: "qaic-sched check magika.yaml",
    compile_: "qaic-sched compile resnet50.onnx --options resnet50.yaml",
}

app = typer.Typer(
    help="Run inference on many devices. See `qaic-sched COMMAND --help` for details.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)
for function, example in EXAMPLES.items():
    app.command(function.__name__.rstrip("_"), epilog=f"Example: {example}")(function)

# Not `app` itself, which would replace the process's `sys.excepthook`.
command = typer.main.get_command(app)
