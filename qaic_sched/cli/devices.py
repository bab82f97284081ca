"""`qaic-sched devices`: list the devices that can run inferences."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qaic_sched.backends.aic import AicBackend
from qaic_sched.backends.aic.sdk import has_card
from qaic_sched.backends.choose import PACKAGE_SCHEME, SIMULATED, backend_for
from qaic_sched.backends.cpu import CpuBackend
from qaic_sched.cli.ctrl_c import run_async
from qaic_sched.cli.output import format_table, print_json
from qaic_sched.config.keys import ModelOptions
from qaic_sched.config.layers import make_config
from qaic_sched.config.models import load_configs

if TYPE_CHECKING:
    from qaic_sched.backends.base import Backend, DeviceInfo

__all__ = ["devices"]

COLUMNS = {
    "id": ">",
    "kind": "<",
    "state": "<",
    "cores free/all": ">",
    "memory": ">",
    "temperature": ">",
    "power": ">",
    "sku": "<",
}


def devices(
    config: Annotated[
        str | None,
        typer.Argument(metavar="CONFIG", help="Configuration file or model; default: this host."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the devices that can run inferences.

    With a configuration or a model, lists the devices of its backend; without, this host's CPU and
    cards.
    """
    found = run_async(_on_this_host() if config is None else _backend_of(config).find())
    if as_json:
        print_json(found)
    else:
        print(format_table(COLUMNS, [_row(device) for device in found]))


async def _on_this_host() -> list[DeviceInfo]:
    backends: list[Backend] = [CpuBackend("", ModelOptions())]
    if has_card():
        backends.append(AicBackend("", ModelOptions()))
    return [device for backend in backends for device in await backend.find()]


def _backend_of(source: str) -> Backend:
    is_config = Path(source).suffix in (".yaml", ".yml") and not source.endswith(SIMULATED)
    if is_config and not source.startswith(PACKAGE_SCHEME):
        return backend_for(next(iter(load_configs(source).values())))  # models share their devices
    return backend_for(make_config(source))


def _row(device: DeviceInfo) -> tuple[str, ...]:
    return (
        str(device.device_id),
        device.kind,
        device.state,
        f"{device.cores_free}/{device.cores}",
        _memory(device),
        "-" if device.temperature_c is None else f"{device.temperature_c:.0f} °C",
        "-" if device.power_w is None else f"{device.power_w:.1f} W",
        device.sku or "-",
    )


def _memory(device: DeviceInfo) -> str:
    sizes = [device.memory_free_bytes, device.memory_bytes]
    known = "/".join(f"{size / 2**30:.1f}" for size in sizes if size is not None)
    return f"{known} GiB" if known else "-"
