"""Finds the devices of this host and their state, from the runtime and the kernel.

Each query runs in a thread with a time limit, because a device in trouble may never answer.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qaic_sched.backends.aic.status import name_of
from qaic_sched.backends.base import DeviceInfo
from qaic_sched.backends.threads import in_thread
from qaic_sched.errors import ConfigError, NoDeviceError

if TYPE_CHECKING:
    from qaic_sched.backends.aic.sdk import Sdk

__all__ = ["find_cards", "query_card"]

logger = logging.getLogger("qaic_sched")

QUERY_LIMIT_S = 30.0
"""Longest wait for a device to report its state: as long as the vendor's own scripts wait."""
VISIBLE = "QAIC_VISIBLE_DEVICES"
PCI_DEVICES = Path("/sys/bus/pci/devices")
STATES = ("initializing", "ready", "error")
"""The vendor's QDevStatus, by number."""


async def find_cards(sdk: Sdk) -> list[DeviceInfo]:
    """Find the devices that QAIC_VISIBLE_DEVICES lets this process see, by ascending id.

    A device that does not answer in time has the state `unknown`. Raises `NoDeviceError` if the
    driver does not list its devices, `ConfigError` if the variable is not a list of ids.
    """
    visible = visible_ids(os.environ.get(VISIBLE))
    try:
        found = await in_thread(partial(_ids, sdk), "qaic-aic-devices", QUERY_LIMIT_S)
    except TimeoutError as error:
        raise NoDeviceError(
            f"the aic driver has not listed its devices within {QUERY_LIMIT_S:g} s: see `dmesg`,"
            f" and reset the devices with `qaic-util -s` if no process uses them"
        ) from error
    if visible is not None:
        missing = sorted(visible - set(found))
        if missing:
            logger.warning("%s names devices that this host does not have: %s", VISIBLE, missing)
        found = [device_id for device_id in found if device_id in visible]
    return list(await asyncio.gather(*(query_card(sdk, device_id) for device_id in sorted(found))))


async def query_card(sdk: Sdk, device_id: int) -> DeviceInfo:
    """Query one device; a device that cannot be queried has the state `unknown` or `error`."""
    query = partial(_query, sdk, device_id)
    try:
        return await in_thread(query, f"qaic-aic-{device_id}-query", QUERY_LIMIT_S)
    except TimeoutError:
        return DeviceInfo(device_id, "aic", "unknown", 0, 0)
    except Exception as error:
        logger.warning("aic device %d cannot be queried: %r", device_id, error)
        return DeviceInfo(device_id, "aic", "error", 0, 0)


def visible_ids(text: str | None) -> set[int] | None:
    """The ids in QAIC_VISIBLE_DEVICES, None if it is not set; `ConfigError` if it is malformed."""
    if text is None or not text.strip():
        return None
    if not re.fullmatch(r"\s*\d+\s*(,\s*\d+\s*)*", text):
        raise ConfigError(f"{VISIBLE}: got {text!r}; wanted device ids with commas, such as 0,1")
    return {int(device_id) for device_id in text.split(",")}


def _ids(sdk: Sdk) -> list[int]:
    status, ids = sdk.runtime.Util().getDeviceIds()
    if status != sdk.runtime.QStatus.QS_SUCCESS:
        raise NoDeviceError(
            f"the aic driver does not list its devices ({name_of(status)}): check that it is"
            f" loaded, and that this user is in the group qaic"
        )
    return [int(device_id) for device_id in ids]


def _query(sdk: Sdk, device_id: int) -> DeviceInfo:
    util, success = sdk.runtime.Util(), sdk.runtime.QStatus.QS_SUCCESS
    status, info = util.getDeviceInfo(device_id)
    if status != success:
        state = "initializing" if name_of(status) == "QS_AGAIN" else "error"
        return DeviceInfo(device_id, "aic", state, 0, 0)
    status, resources = util.getResourceInfo(device_id)
    if status != success:
        resources = info.devData.resourceInfo
    temperature_c, power_w = _sensors(info)
    return DeviceInfo(
        device_id=device_id,
        kind="aic",
        state=STATES[int(info.devStatus)],
        cores=resources.nspTotal,
        cores_free=resources.nspFree,
        memory_bytes=resources.dramTotal << 20,
        memory_free_bytes=resources.dramFree << 20,
        temperature_c=temperature_c,
        power_w=power_w,
        # Assumption (not verified on hardware): the binding exposes these two as the C structs do.
        serial=getattr(info.devData, "serial", None) or None,
        # The vendor's own scripts consider it inaccurate and read `qaic-util` instead.
        sku=name_of(resources.skuType) if hasattr(resources, "skuType") else None,
    )


def _sensors(info: Any) -> tuple[float | None, float | None]:
    """Temperature (°C) and power (W) from the kernel; None where it does not report them."""
    pci = getattr(info, "pciInfo", None)
    if pci is None:
        return None, None
    address = f"{pci.domain:04x}:{pci.bus:02x}:{pci.device:02x}.{pci.function:x}"
    folder = PCI_DEVICES / address / "hwmon"
    return _read(folder, "temp2_input", 1e-3), _read(folder, "power1_input", 1e-6)


def _read(folder: Path, sensor: str, unit: float) -> float | None:
    try:
        return int(next(folder.glob(f"hwmon*/{sensor}")).read_text()) * unit
    except (OSError, ValueError, StopIteration):
        return None
