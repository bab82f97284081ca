"""`qaic-sched check`: explain a configuration and find its errors."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from qaic_sched.backends.base import check_fit
from qaic_sched.backends.choose import backend_for
from qaic_sched.backends.compiling.container import kind_of
from qaic_sched.cli.ctrl_c import run_async
from qaic_sched.cli.output import format_table, print_json, say
from qaic_sched.config.models import UNNAMED, load_configs
from qaic_sched.config.table import describe_config
from qaic_sched.errors import ConfigError, NoDeviceError
from qaic_sched.scheduler.several import check_kinds, share_devices

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from qaic_sched.backends.base import Backend
    from qaic_sched.config.keys import Config
    from qaic_sched.program import Program, TensorSpec

__all__ = ["Findings", "check", "examine"]

logger = logging.getLogger("qaic_sched")


@dataclass
class Findings:
    """The result of examining a configuration; errors leave later fields empty.

    `is_settled` is True if `program` says how requests use the batch axis.
    `needs_compiling` is True if `program` is None because the model must be compiled first.
    `slots` is the number of inferences that all devices can hold together. With several models,
    `models` has the findings of each, and `errors` includes theirs.
    """

    config: Config | None = None
    backend: Backend | None = None
    program: Program | None = None
    needs_compiling: bool = False
    is_settled: bool = False
    device_ids: list[int] = field(default_factory=list)
    slots: int | None = None
    warnings: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    models: dict[str, Findings] = field(default_factory=dict)


def check(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="Configuration file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Explain a configuration and report its errors.

    Prints every key with its value and meaning, then the model's inputs, outputs and batch sizes,
    how requests use the batch axis, and the number of slots. Compiles nothing and uses no device; a
    model for the CPU is tried for that, once. The exit status is 2 if there are errors.
    """
    findings = examine(config)
    if as_json:
        print_json(_as_json(findings))
    else:
        _print_findings(findings)
        for name, of_model in findings.models.items():
            print(f"model {name}\n")
            _print_findings(of_model)
            print()
    for error in findings.errors:
        say(error)
    if findings.errors:
        raise typer.Exit(2)
    if not as_json:
        print("" if findings.models else "\n", config, ": no problems found", sep="")


def examine(path: Path) -> Findings:
    """Examine the configuration in a file. Errors are part of the findings, not raised."""
    findings = Findings()
    with _collect_warnings(findings.warnings):
        try:
            configs = load_configs(path)
        except ConfigError as error:
            findings.errors.append(str(error))
        else:
            if UNNAMED in configs:
                _examine_model(findings, configs[UNNAMED])
            else:
                _examine_models(findings, configs)
    return findings


def _examine_model(findings: Findings, config: Config) -> None:
    findings.config = config
    try:
        findings.backend = backend_for(_uncompiled(config))
    except ConfigError as error:
        findings.errors.append(str(error))
    else:
        run_async(_examine_backend(findings, findings.backend, config))


def _examine_models(findings: Findings, configs: Mapping[str, Config]) -> None:
    """Examine each model, then check that the models can share their devices."""
    backends = {}
    for name, config in configs.items():
        findings.models[name] = of_model = Findings()
        _examine_model(of_model, config)
        findings.errors += [f"models.{name}: {error}" for error in of_model.errors]
        if of_model.backend is not None:
            backends[name] = of_model.backend
    if not findings.errors:
        try:
            check_kinds(backends)
            findings.device_ids = run_async(share_devices(configs, backends))
        except ConfigError as error:
            findings.errors.append(str(error))


def _uncompiled(config: Config) -> Config:
    """Turn compiling off, so that a backend describes a CPU model without compiling it."""
    options = msgspec.structs.replace(config.options, compile=False)
    return msgspec.structs.replace(config, options=options)


async def _examine_backend(findings: Findings, backend: Backend, config: Config) -> None:
    """Examine the program, then the devices, so that both errors are found."""
    is_source = backend.kind == "aic" and kind_of(backend.model_path) is None
    findings.needs_compiling = is_source and config.options.compile
    try:
        if not findings.needs_compiling:
            findings.program = await backend.describe()
            # Where only a loaded device can tell, it is found out when the scheduler opens.
            settled = await backend.settle_rows(config.batching.rows)
            findings.program, findings.is_settled = settled or findings.program, settled is not None
    except ConfigError as error:
        findings.errors.append(str(error))
    try:
        findings.device_ids = await backend.select(config.devices)
    except (ConfigError, NoDeviceError) as error:
        if str(error) not in findings.errors:  # both need the vendor's binding
            findings.errors.append(str(error))
        return
    findings.slots = len(findings.device_ids) * config.num_activations * config.set_size
    findings.errors += await _devices_too_small(backend, config, findings.device_ids)


async def _devices_too_small(
    backend: Backend, config: Config, device_ids: Sequence[int]
) -> list[str]:
    """Return an error for each device that has fewer cores than the activations need.

    CPU devices are skipped: their activations share cores.
    """
    errors = []
    for device in await backend.find():
        if device.kind != "cpu" and device.device_id in device_ids:
            try:
                check_fit(device, config.num_activations, config.options.aic_num_cores)
            except ConfigError as error:
                errors.append(str(error))
    return errors


class _Collector(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())


@contextmanager
def _collect_warnings(lines: list[str]) -> Iterator[None]:
    """Within the context, append the package's warnings to `lines`."""
    collector = _Collector(lines)
    logger.addHandler(collector)
    try:
        yield
    finally:
        logger.removeHandler(collector)


def _print_findings(findings: Findings) -> None:
    config, backend, program = findings.config, findings.backend, findings.program
    if config is None:
        return
    columns = {"key": "<", "value": "<", "meaning": "<"}
    print(format_table(columns, describe_config(config)))
    facts: list[tuple[str, str]] = []
    if backend is not None:
        facts += [("model file", backend.model_path), ("runs on", backend.kind)]
    if findings.needs_compiling:
        facts.append(("inputs, outputs, batch sizes", "known after compiling: qaic-sched compile"))
    if program is not None:
        facts += [("input", _shown(spec)) for spec in program.inputs]
        facts += [("output", _shown(spec)) for spec in program.outputs]
        sizes = ", ".join(map(str, program.batch_sizes)) or "none: one request per inference"
        facts.append(("batch sizes", sizes))
        report = _rows(findings) or {}
        facts.append(("rows", f"{report['mode']} (a request has {report['row_counts']})"))
        facts.append(("because", report["reason"]))
    if findings.slots is not None:
        facts.append(("slots", _slots(findings, config)))
    if facts:
        print()
        print(format_table({"": "<", " ": "<"}, facts).lstrip())


def _shown(spec: TensorSpec) -> str:
    return f"{spec.name} {spec.dtype} {list(spec.shape)}"


def _rows(findings: Findings) -> dict[str, str] | None:
    """How requests use the batch axis; unknown if only a loaded device can tell."""
    if findings.program is None:
        return None
    if findings.is_settled:
        return findings.program.rows_report
    reason = "the rows are tried on a device when the scheduler opens"
    return {"mode": "unknown", "row_counts": "1 or more", "reason": reason}


def _slots(findings: Findings, config: Config) -> str:
    return (
        f"{findings.slots} = {len(findings.device_ids)} devices × "
        f"{config.num_activations} activations × {config.set_size} (set_size)"
    )


def _as_json(findings: Findings) -> dict[str, Any]:
    backend, program = findings.backend, findings.program
    if findings.models:
        return {
            "models": {name: _as_json(each) for name, each in findings.models.items()},
            "devices": findings.device_ids,
            "warnings": findings.warnings,
            "errors": findings.errors,
        }
    return {
        "config": findings.config,
        "model_file": None if backend is None else backend.model_path,
        "backend": None if backend is None else backend.kind,
        "inputs": None if program is None else _tensors(program.inputs),
        "outputs": None if program is None else _tensors(program.outputs),
        "batch_sizes": None if program is None else program.batch_sizes,
        "batch_axis": _rows(findings),
        "needs_compiling": findings.needs_compiling,
        "devices": findings.device_ids,
        "slots": findings.slots,
        "warnings": findings.warnings,
        "errors": findings.errors,
    }


def _tensors(specs: Sequence[TensorSpec]) -> dict[str, Any]:
    return {spec.name: {"shape": spec.shape, "dtype": str(spec.dtype)} for spec in specs}
