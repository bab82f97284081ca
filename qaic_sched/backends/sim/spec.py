"""The `.sim.yaml` file: a program and the simulated cards that run it, typed and checked.

Rules of this file:
- Every error is a `ConfigError` that names the file and the key, and suggests the nearest known
  word.
- Sections are converted one by one, because msgspec does not say which section an error is in.
- Times are finite seconds; nothing here knows a clock, a loop or a random generator.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn, TypeVar

import msgspec
import numpy as np
from msgspec import Meta, Struct

from qaic_sched.config.yaml_file import read_yaml
from qaic_sched.errors import ConfigError
from qaic_sched.program import Program, TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = [
    "ErrorFault",
    "HangFault",
    "LostFault",
    "RejectFault",
    "SimSpec",
    "StallFault",
    "read_spec",
]

Positive = Annotated[int, Meta(ge=1)]
Index = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0, le=1e9)]
Probability = Annotated[float, Meta(ge=0, le=1)]

_DTYPES = [
    *("bool", "float16", "float32", "float64"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
]


class Tensor(Struct, frozen=True, forbid_unknown_fields=True):
    """`inputs.NAME`, `outputs.NAME`: the shape at the largest compiled batch size, and the type."""

    shape: Annotated[tuple[Positive, ...], Meta(min_length=1)]
    dtype: str


class Override(Struct, frozen=True, forbid_unknown_fields=True):
    """`overrides.DEVICE`: how one device differs; at speed 0.5 inferences take twice as long."""

    speed: Annotated[float, Meta(gt=0, le=1e9)] = 1.0


class FaultSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"):
    """The part that all faults share: the device that has the fault, None for every device."""

    device: Index | None = None

    def is_on(self, device_id: int) -> bool:
        """Whether the device has this fault."""
        return self.device is None or self.device == device_id


class LostFault(FaultSpec, frozen=True, kw_only=True, tag="lost"):
    """Every inference on the device fails from `at_s` on, for `for_s` seconds or for ever."""

    at_s: Seconds
    for_s: Seconds | None = None


class HangFault(FaultSpec, frozen=True, kw_only=True, tag="hang"):
    """The device completes nothing from `at_s` on, for `for_s` seconds or for ever."""

    at_s: Seconds
    for_s: Seconds | None = None


class ErrorFault(FaultSpec, frozen=True, kw_only=True, tag="error"):
    """An inference fails with this probability, at the time when it would have ended."""

    probability: Probability


class StallFault(FaultSpec, frozen=True, kw_only=True, tag="stall"):
    """An inference takes `for_s` seconds longer with this probability."""

    probability: Probability
    for_s: Seconds


class RejectFault(FaultSpec, frozen=True, kw_only=True, tag="reject"):
    """An inference fails that has a value above `above` in any input, as `error` says."""

    above: float
    error: Literal["input", "inference"] = "input"


_FAULTS: dict[str, type[FaultSpec]] = {
    "lost": LostFault,
    "hang": HangFault,
    "error": ErrorFault,
    "stall": StallFault,
    "reject": RejectFault,
}


class SimSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A `.sim.yaml` file; `service_time_s` is one time per compiled batch size, or one for all."""

    inputs: Annotated[dict[str, Tensor], Meta(min_length=1)]
    outputs: Annotated[dict[str, Tensor], Meta(min_length=1)]
    service_time_s: Seconds | dict[Positive, Seconds]
    batch_sizes: Annotated[list[Positive], Meta(min_length=1)] | None = None
    service_time_cv: Annotated[float, Meta(ge=0, le=1e3)] = 0.0
    host_turnaround_s: Seconds = 0.0
    devices: Positive = 1
    load_time_s: Seconds = 0.0
    cores: Positive = 16
    overrides: dict[Index, Override] = {}
    faults: list[LostFault | HangFault | ErrorFault | StallFault | RejectFault] = []
    seed: int = 1

    def program(self) -> Program:
        """The program: its inputs and outputs, and its compiled batch sizes in ascending order."""
        sizes = self.batch_sizes and list(set(self.batch_sizes))
        return Program.of(_specs(self.inputs), _specs(self.outputs), sizes)

    def execution_times_s(self, device_id: int) -> dict[int, float]:
        """Compiled batch size -> mean execution time on the device, in seconds."""
        speed = self.overrides.get(device_id, Override()).speed
        times = self.service_time_s
        if not isinstance(times, dict):
            times = dict.fromkeys(self.program().batch_sizes, times)
        return {size: seconds / speed for size, seconds in times.items()}


def read_spec(path: Path) -> SimSpec:
    """Read and check a `.sim.yaml` file; `ConfigError` names the file and the key."""
    raw = read_yaml(path)
    try:
        spec = _parse(raw)
        _check_tensors(spec)
        _check_sizes(spec)
        _check_devices(spec)
    except _WrongKeyError as error:
        raise ConfigError(f"{path}: {error}") from error.__cause__
    return spec


class _WrongKeyError(Exception):
    """An error of the form `key: problem`, raised where the path of the file is not known."""


def _parse(raw: object) -> SimSpec:
    top = dict(_mapping(raw, ""))
    kinds: dict[str, type[Struct]] = {"inputs": Tensor, "outputs": Tensor, "overrides": Override}
    for key, kind in kinds.items():
        if key in top:
            section = _mapping(top[key], key)
            top[key] = {name: _convert(section[name], kind, f"{key}.{name}") for name in section}
    if isinstance(faults := top.get("faults"), list):
        top["faults"] = [_fault(fault, f"faults[{i}]") for i, fault in enumerate(faults)]
    return _convert(top, SimSpec, "")


def _fault(value: object, where: str) -> FaultSpec:
    kind = _mapping(value, where).get("kind")
    if str(kind) not in _FAULTS:
        _fail(f"{where}.kind", f"unknown kind {kind!r}; the nearest is {_nearest(kind, _FAULTS)}")
    return _convert(value, _FAULTS[str(kind)], where)


S = TypeVar("S", bound=Struct)


def _convert(value: object, kind: type[S], where: str) -> S:
    """Convert a section to a Struct; `where` is its key, empty for the whole file."""
    known = [*kind.__struct_fields__, *filter(None, [kind.__struct_config__.tag_field])]
    for key in _mapping(value, where):
        if key not in known:
            path = f"{where}.{key}".lstrip(".")
            _fail(path, f"unknown key; the nearest known one is {_nearest(key, known)}")
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        text, of_key, inner = _VALIDATION_ERROR.fullmatch(str(error)).groups("")  # type: ignore[union-attr]
        text = text.replace("Object missing required field", "missing key")
        text = text.replace("object", "mapping").replace("array", "list")
        raise _WrongKeyError(
            f"{(where + inner).lstrip('.') or 'the file'}: {of_key and 'a key of it: '}{text}"
        ) from error


_VALIDATION_ERROR = re.compile(r"(.*?)(?: - at (`key` in )?`\$(.*)`)?", re.DOTALL)


def _mapping(value: object, where: str) -> dict[object, object]:
    if not isinstance(value, dict):
        _fail(where or "the file", f"must be a mapping of keys, not {value!r}")
    return value


def _nearest(word: object, known: Iterable[str]) -> str:
    return difflib.get_close_matches(str(word), known, n=1, cutoff=0.0)[0]


def _fail(where: str, problem: str) -> NoReturn:
    raise _WrongKeyError(f"{where}: {problem}")


def _specs(tensors: dict[str, Tensor]) -> list[TensorSpec]:
    return [TensorSpec(name, each.shape, np.dtype(each.dtype)) for name, each in tensors.items()]


def _first_dimension(spec: SimSpec) -> int:
    return next(iter(spec.inputs.values())).shape[0]


def _check_tensors(spec: SimSpec) -> None:
    first = _first_dimension(spec)
    for section in ("inputs", "outputs"):
        for name, tensor in getattr(spec, section).items():
            if tensor.dtype not in _DTYPES:
                nearest = _nearest(tensor.dtype, _DTYPES)
                _fail(
                    f"{section}.{name}.dtype",
                    f"unknown type {tensor.dtype!r}; the nearest is {nearest}",
                )
            if tensor.shape[0] != first:
                _fail(
                    f"{section}.{name}.shape",
                    f"the first dimension is {tensor.shape[0]}, but {first} in"
                    f" inputs.{next(iter(spec.inputs))}; it is the batch axis: make all equal",
                )


def _check_sizes(spec: SimSpec) -> None:
    first = _first_dimension(spec)
    if spec.batch_sizes is not None and max(spec.batch_sizes) != first:
        _fail(
            "batch_sizes",
            f"the largest is {max(spec.batch_sizes)}, but the shapes begin with {first}: make them"
            " equal",
        )
    sizes = spec.program().batch_sizes
    if isinstance(spec.service_time_s, dict) and set(spec.service_time_s) != set(sizes):
        _fail(
            "service_time_s",
            f"has times for {sorted(spec.service_time_s)}, but the compiled batch sizes are"
            f" {list(sizes)}; give one time for each",
        )


def _check_devices(spec: SimSpec) -> None:
    named = [(f"overrides.{device_id}", device_id) for device_id in spec.overrides]
    for i, fault in enumerate(spec.faults):
        if fault.device is not None:
            named.append((f"faults[{i}].device", fault.device))
    for where, device_id in named:
        if device_id >= spec.devices:
            _fail(where, f"there is no device {device_id}: `devices` makes 0 to {spec.devices - 1}")
