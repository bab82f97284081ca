"""Where and when a run was made: the only part in which two runs with the same seed may differ.

Results depend on the machine, so the report describes it. Facts that are not available are left
out.
"""

from __future__ import annotations

import asyncio
import os
import platform
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from qaic_sched.virtual_time import VirtualLoop

__all__ = ["Origin", "describe_host"]

PACKAGES = (
    *("numpy", "msgspec", "uvloop", "onnxruntime", "scipy", "matplotlib"),
    *("hdrhistogram", "tritonclient", "mlcommons-loadgen"),
)
_CPU_INFO = Path("/proc/cpuinfo")
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
_GIT_LIMIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Origin:
    """Where and when a run was made: `Report.host` and `Report.started_at`; empty if unknown."""

    host: dict[str, Any] = field(default_factory=dict)
    started_at: str = ""

    @classmethod
    def here(cls) -> Origin:
        """Describe this host and this moment; call it from the running event loop."""
        started_at = datetime.now(timezone.utc).isoformat(timespec="seconds")
        return cls(describe_host(), started_at)


def describe_host() -> dict[str, Any]:
    """Describe this machine, this Python and the running event loop."""
    loop = asyncio.get_running_loop()
    is_virtual = isinstance(loop, VirtualLoop)
    clock = time.get_clock_info("monotonic")
    found = {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": _usable_cores(),
        "governor": _first_line(_GOVERNOR),
        "system": platform.platform(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "qaic_sched": _version("qaic-sched"),
        "git_commit": _git_commit(Path(__file__).parents[3]),
        "event_loop": type(loop).__module__.partition(".")[0] if not is_virtual else "virtual",
        "clock": "virtual" if is_virtual else f"{clock.implementation}, {clock.resolution:g} s",
        "garbage_collector": "objects that existed before the load are frozen (gc.freeze)",
        "packages": {name: found for name in PACKAGES if (found := _version(name))},
    }
    return {name: value for name, value in found.items() if value is not None}


def _usable_cores() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _cpu_model() -> str | None:
    with suppress(OSError):
        for line in _CPU_INFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine() or None


def _first_line(path: Path) -> str | None:
    with suppress(OSError):
        return path.read_text().strip()
    return None


def _version(package: str) -> str | None:
    with suppress(PackageNotFoundError):
        return version(package)
    return None


def _git_commit(folder: Path) -> str | None:
    """Return the commit of the checkout that runs, with `-dirty` if it has changes."""
    command = ["git", "describe", "--always", "--abbrev=40", "--dirty", "--match="]
    if not (folder / ".git").exists():
        return None  # installed, not a checkout
    with suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_GIT_LIMIT_S, check=True
        )
        return done.stdout.strip() or None
    return None
