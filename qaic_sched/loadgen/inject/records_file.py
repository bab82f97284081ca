"""Raw records of a run in one `.npz` file, and back: every number as it was measured."""

from __future__ import annotations

import zipfile
from dataclasses import fields
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from msgspec import Struct

from qaic_sched.errors import InputError
from qaic_sched.loadgen.inject.records import Records
from qaic_sched.loadgen.targets.base import DeviceSample

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ARRAYS", "load_records", "save_records"]

_REST = ("ended_ns", "problems", "device_samples")
ARRAYS = tuple(each.name for each in fields(Records) if each.name not in _REST)
"""The names of the columns, one row per request each."""
_KEYS = {**dict(zip(ARRAYS, ARRAYS, strict=True)), "completed_ns": "answered_ns"}
"""Column -> its name in the file, which outlives that of the attribute."""


class _Rest(Struct, frozen=True):
    """What is no array, as JSON."""

    ended_ns: int
    problems: dict[str, int]
    device_samples: list[DeviceSample]


def save_records(records: Records, path: Path) -> None:
    """Write all of it to a file of exactly this name."""
    rest = msgspec.json.encode(_Rest(records.ended_ns, records.problems, records.device_samples))
    with path.open("wb") as file:
        np.savez(
            file,
            allow_pickle=False,
            rest=np.frombuffer(rest, np.uint8),
            **{key: getattr(records, name) for name, key in _KEYS.items()},
        )


def load_records(path: Path) -> Records:
    """Read what `save_records` wrote; `InputError` where it is something else."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[key] for name, key in _KEYS.items()}
            rest = msgspec.json.decode(archive["rest"].tobytes(), type=_Rest)
    except (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: no records of a load test: {error}") from error
    return Records(
        **arrays,
        ended_ns=rest.ended_ns,
        problems=rest.problems,
        device_samples=rest.device_samples,
    )
