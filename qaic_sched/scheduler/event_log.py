"""Event logs: the events and decisions of a run as JSON lines, to read or to replay.

Rules of the format:
- The first line has the version, the model and the policy. The last line is `end`; a log without
  it was cut off. Every other line has `call`, `at` and `event`. Lines with the same `call` belong
  to one call of `handle` at the time `at`, in seconds of the scheduler's clock.
- The events of a call come before its decisions. Each has the fields of its class in
  `core.events`. A call without events has a line `wakeup`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from math import isinf
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from qaic_sched.core.events import (
    ActivationsAdded,
    ActivationsRetired,
    Cancelled,
    Closed,
    DeviceOpened,
    DeviceReported,
    DeviceRetired,
    DrainStarted,
    Event,
    LoopStalled,
    PolicyChanged,
    ReloadFailed,
    SetSizeChanged,
)
from qaic_sched.core.model import Completed, Fault, Policy, Request, RequestState
from qaic_sched.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from io import BufferedReader
    from types import TracebackType

    from typing_extensions import Self

    from qaic_sched.core.commands import Commands

__all__ = [
    "Call",
    "Close",
    "Decision",
    "Dispatch",
    "EventLog",
    "EventLogReader",
    "Reload",
    "Resolve",
    "Unload",
    "decisions_of",
]

VERSION = 3

_WAKEUP = "wakeup"
_KINDS: dict[str, type[Event]] = {
    "request": Request,
    "answered": Completed,
    "cancelled": Cancelled,
    "drain_started": DrainStarted,
    "closed": Closed,
    "device_opened": DeviceOpened,
    "device_reported": DeviceReported,
    "device_retired": DeviceRetired,
    "loop_stalled": LoopStalled,
    "reload_failed": ReloadFailed,
    "activations_added": ActivationsAdded,
    "activations_retired": ActivationsRetired,
    "set_size_changed": SetSizeChanged,
    "policy_changed": PolicyChanged,
}
"""Name in a log -> class. The names belong to the format: classes may be renamed, names not."""
_NAMES = {kind: name for name, kind in _KINDS.items()}
_OF_POLICY = {each.name: each.name for each in fields(Policy)}


class _Decision(msgspec.Struct, tag_field="event", tag=str.lower):
    call: int
    at: float


class Dispatch(_Decision):
    """Send a batch to an activation; a part is (request id, first sample, number of samples)."""

    batch_id: int
    device_id: int
    activation: int
    size: int
    is_hedge: bool
    parts: list[tuple[int, int, int]]


class Reload(_Decision):
    """Close a device and load it again."""

    device_id: int


class Unload(_Decision):
    """Unload activations of a device."""

    device_id: int
    indexes: tuple[int, ...]


class Close(_Decision):
    """Close a device for good."""

    device_id: int


class Resolve(_Decision):
    """Resolve a request."""

    id: int
    state: RequestState


Decision: TypeAlias = Dispatch | Reload | Unload | Close | Resolve
"""A decision as one line of a log."""

_DECISIONS = ("dispatch", "reload", "unload", "close", "resolve")


def decisions_of(call: int, at: float, commands: Commands) -> Iterator[Decision]:
    """Yield the decisions of a call of `handle` in their form in a log."""
    for batch in commands.dispatch:
        activation = batch.activation
        parts = [(part.request.id, part.offset, part.samples) for part in batch.parts]
        where = activation.device_id, activation.index
        yield Dispatch(call, at, batch.id, *where, batch.size, batch.is_hedge, parts)
    for device_id in commands.reload:
        yield Reload(call, at, device_id)
    for device_id, indexes in commands.unload:
        yield Unload(call, at, device_id, indexes)
    for device_id in commands.close:
        yield Close(call, at, device_id)
    for request in commands.resolve:
        yield Resolve(call, at, request.id, request.state)


class EventLog:
    """A log file open for writing. Lines are buffered until it is closed."""

    def __init__(self, path: str) -> None:
        self._encode = msgspec.json.Encoder().encode
        self._calls = 0
        self._now = 0.0
        try:
            self._file = open(path, "wb")  # noqa: SIM115 - closed by close()
        except OSError as error:
            raise ConfigError(f"event_log: {path} cannot be written: {error.strerror}") from error

    def start(self, model: str, policy: Policy) -> None:
        """Write the first line, with the model and the policy."""
        values = _values(policy, _OF_POLICY)
        # The name of a file may hold bytes that are no text.
        name = model.encode(errors="backslashreplace").decode()
        self._write({"event": "log", "version": VERSION, "model": name, "policy": values})

    def record_events(self, now: float, events: Sequence[Event]) -> None:
        """Append the events of a call of `handle`."""
        self._calls += 1
        self._now = now
        stamp = {"call": self._calls, "at": now}
        for event in events:
            kind = type(event)
            self._write({"event": _NAMES[kind], **stamp, **_values(event, _FIELDS[kind])})
        if not events:
            self._write({"event": _WAKEUP, **stamp})

    def record_decisions(self, commands: Commands) -> None:
        """Append the decisions of the call."""
        for decision in decisions_of(self._calls, self._now, commands):
            self._write(decision)

    def close(self) -> None:
        """Write the buffered lines and close the file; idempotent."""
        if self._file.closed:
            return
        with self._file:
            if self._calls:
                self._write({"event": "end"})

    def _write(self, line: dict[str, Any] | Decision) -> None:
        self._file.write(self._encode(line) + b"\n")


def _values(source: object, names: Mapping[str, str]) -> dict[str, Any]:
    """Return attributes by their names in a log; infinity becomes a string, as JSON has none."""
    values = {key: getattr(source, name) for name, key in names.items()}
    for name, value in values.items():
        if isinstance(value, float) and isinf(value):
            values[name] = str(value)
        elif isinstance(value, Policy):
            values[name] = _values(value, _OF_POLICY)
    return values


@dataclass(slots=True)
class Call:
    """One call of `handle` in a log: the lines from `first_line` to `last_line`."""

    number: int
    at: float
    first_line: int
    last_line: int
    events: list[Event] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)


class _Arrival(msgspec.Struct):
    """A `Request` as it arrives: the fields that the caller sets."""

    id: int
    samples: int
    accepted_at: float
    deadline: float | None = None
    priority: int = 0
    num_bytes: int = 0
    tenant: str | None = None


class _Answered(msgspec.Struct):
    """A `Completed`, with the types of its fields, which a compiled class does not keep."""

    batch_id: int
    completed_at: float = msgspec.field(name="answered_at")
    fault: Fault | None = None


_READ_AS: dict[Any, type[msgspec.Struct]] = {Request: _Arrival, Completed: _Answered}
_FIELDS: dict[Any, Mapping[str, str]] = {
    kind: {each.name: each.name for each in fields(kind)} for kind in _NAMES if is_dataclass(kind)
}
"""Class of an event -> its attributes and their names in a log."""
_FIELDS |= {
    kind: dict(zip(form.__struct_fields__, form.__struct_encode_fields__, strict=True))
    for kind, form in _READ_AS.items()
}


class _Stamp(msgspec.Struct):
    event: str
    call: int = 0
    at: float = 0.0


_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError)


class EventLogReader:
    """A log file open for reading; iterate once over its calls.

    Raises `ConfigError` with the line number if the file is not an event log of this version.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.is_cut_off = False
        """True if the log ends without `end`, because the run crashed; known after iterating.

        The last call may then be incomplete, and is left out.
        """
        self._line = 1
        try:
            self._file: BufferedReader = open(path, "rb")  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
        try:
            self.model, self.policy = self._read_header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[Call]:
        call: Call | None = None
        for line in self._lines():
            stamp = self._convert(line, _Stamp)
            is_end = stamp.event == "end"
            if call is not None and (is_end or stamp.call != call.number):
                yield call
                call = None
            if is_end:
                return
            if call is None:
                call = Call(stamp.call, stamp.at, self._line, self._line)
            self._add(call, stamp.event, line)
        self.is_cut_off = True

    def _lines(self) -> Iterator[dict[str, Any]]:
        decode = msgspec.json.Decoder(dict[str, Any]).decode
        for text in self._file:
            self._line += 1
            if not text.endswith(b"\n"):
                return
            try:
                yield decode(text)
            except _NOT_JSON as error:
                raise self._error(f"not a line of an event log: {error}") from error

    def _add(self, call: Call, name: str, line: dict[str, Any]) -> None:
        call.last_line = self._line
        if name in _DECISIONS:
            call.decisions.append(self._convert(line, Decision))
        elif name in _KINDS:
            kind = _KINDS[name]
            event = self._convert(line, _READ_AS.get(kind, kind))
            if kind in _READ_AS:
                event = kind(**msgspec.structs.asdict(event))
            call.events.append(event)
        elif name != _WAKEUP:
            raise self._error(f"not a line of an event log: unknown event {name!r}")

    def _read_header(self) -> tuple[str, Policy]:
        problem = "not the first line of an event log"
        try:
            header = msgspec.json.decode(self._file.readline(), type=dict[str, Any])
        except _NOT_JSON as error:
            raise self._error(problem) from error
        version = header.get("version")
        if header.get("event") != "log":
            raise self._error(problem)
        if version != VERSION:
            raise self._error(f"a log of version {version}; this qaic-sched reads {VERSION}")
        return self._convert(header.get("model"), str), self._convert(header.get("policy"), Policy)

    def _convert(self, value: object, kind: Any) -> Any:
        try:
            return msgspec.convert(value, kind, strict=False)
        except msgspec.ValidationError as error:
            raise self._error(f"not a line of an event log: {error}") from error

    def _error(self, problem: str) -> ConfigError:
        return ConfigError(f"{self.path}:{self._line}: {problem}")
