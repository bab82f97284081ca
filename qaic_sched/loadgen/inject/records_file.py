"""Writes the raw records of a run to one `.npz` file and reads them back, without loss."""

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

_NOT_ARRAYS = ("ended_ns", "problems", "device_samples")
ARRAYS = tuple(each.name for each in fields(Records) if each.name not in _NOT_ARRAYS)
"""The names of the columns, which have one row per request."""
_KEYS = {**dict(zip(ARRAYS, ARRAYS, strict=True)), "completed_ns": "answered_ns"}
"""Column -> its name in the file, which stays when the attribute is renamed."""


class _Rest(Struct, frozen=True):
    """The fields that are not arrays, stored as JSON."""

    ended_ns: int
    problems: dict[str, int]
    device_samples: list[DeviceSample]


def save_records(records: Records, path: Path) -> None:
    """Write records to a file of exactly this name."""
    rest = msgspec.json.encode(_Rest(records.ended_ns, records.problems, records.device_samples))
    with path.open("wb") as file:
        np.savez(
            file,
            allow_pickle=False,
            rest=np.frombuffer(rest, np.uint8),
            **{key: getattr(records, name) for name, key in _KEYS.items()},
        )


def load_records(path: Path) -> Records:
    """Read records written by `save_records`; raise `InputError` for any other file."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[key] for name, key in _KEYS.items()}
            rest = msgspec.json.decode(archive["rest"].tobytes(), type=_Rest)
    except (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not a records file of a load test: {error}") from error
    return Records(
        **arrays,
        ended_ns=rest.ended_ns,
        problems=rest.problems,
        device_samples=rest.device_samples,
    )
