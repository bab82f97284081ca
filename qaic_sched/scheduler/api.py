"""The interface of a scheduler, for code that works with any implementation.

The blocking front, load tests and servers are written against these protocols. `Scheduler` and
`ScheduledRequest` satisfy them by their structure: they are compiled, and inherit from nothing.

Rules of the interface:
- All methods belong to the event loop on which the scheduler was opened.
- `model` names one of several models. None means the only model, or, where counts are read, all
  models added up. An unknown name is an `InputError`.
- Before the scheduler is open, and in `submit` after it was closed, methods raise
  `SchedulerClosedError`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import (
        AsyncIterable,
        AsyncIterator,
        Callable,
        Generator,
        Iterable,
        Mapping,
    )
    from types import TracebackType
    from typing import SupportsFloat, SupportsIndex

    from numpy.typing import NDArray
    from typing_extensions import Self

    from qaic_sched.core.values import Statistics
    from qaic_sched.program import Program, Tensors
    from qaic_sched.scheduler.explain import Explanation

__all__ = [
    "DeviceTotals",
    "Inference",
    "RequestHandle",
    "SchedulerApi",
    "SupportsText",
    "Totals",
]


class SupportsText(Protocol):
    """A string; to type checkers the same as `str`.

    A compiled function checks a parameter of type `str` before its body can, and raises
    `TypeError` where `InputError` is promised.
    """

    def casefold(self) -> str:
        """Of strings only."""


@dataclass(slots=True)
class Inference:
    """The inference that answered a request; times are seconds of the event loop's clock."""

    id: int
    """The same for all requests of one batch."""
    device_id: int
    activation: int
    submitted_at: float
    """When the batch was sent to the device."""
    started_at: float
    """When the activation began it: after `submitted_at` if it had another inference to finish."""
    completed_at: float


class DeviceTotals(NamedTuple):
    """Running totals of one device, failed inferences included."""

    inferences: int
    busy_s: float
    """Seconds of execution, summed over the device's activations."""


class Totals(NamedTuple):
    """Running totals since the scheduler opened; devices removed since then are included."""

    queued_samples: int
    """Samples in the queue now: accepted and not yet sent to a device."""
    devices: dict[int, DeviceTotals]
    """By device id."""


class RequestHandle(Protocol):
    """One request as its caller sees it; several tasks may await it.

    Awaiting returns the outputs, or raises the request's error. Cancelling a task that awaits the
    request cancels the request.
    """

    def __await__(self) -> Generator[object, None, Tensors]:
        """Wait for the outputs."""

    @property
    def samples(self) -> int:
        """The number of samples in the request."""

    def done(self) -> bool:
        """Return True once the request is resolved, with or without outputs."""

    def cancelled(self) -> bool:
        """Return True if the caller cancelled the request."""

    def cancel(self) -> bool:
        """Cancel the request; return False if it was resolved already."""

    def result(self) -> Tensors:
        """Return the outputs or raise the request's error; `InvalidStateError` before `done`."""

    def add_done_callback(self, callback: Callable[[RequestHandle], object]) -> None:
        """Schedule `callback(request)` on the event loop once the request is resolved."""

    def explain(self) -> Explanation:
        """Explain where the time went; `InvalidStateError` before `done`."""

    @property
    def outcome(self) -> str:
        """How the request ended: "done", "failed", "cancelled", "expired" or "rejected".

        `InvalidStateError` before `done`.
        """

    @property
    def inference(self) -> Inference | None:
        """The inference that produced the outputs.

        None without outputs, where several inferences produced them, and where it is not known.
        """


class SchedulerApi(Protocol):
    """A scheduler of one or several models, in this process or in front of other hosts.

    Open it with `async with`, which drains it at the end, or cancels outstanding requests if the
    block raised an exception. A scheduler opens once.
    """

    async def __aenter__(self) -> Self:
        """Load the models; `ConfigError`, `DeviceError` or `NoDeviceError` if that fails."""

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Drain unless the block raised, then close."""

    async def drain(self) -> None:
        """Refuse new requests and wait until every accepted request is resolved."""

    async def aclose(self) -> None:
        """Cancel unresolved requests with `SchedulerClosedError` and release the devices."""

    # Requests

    async def run(
        self,
        inputs: Mapping[str, NDArray[Any]],
        *,
        priority: SupportsIndex = 0,
        timeout_s: SupportsFloat | None = None,
        tenant: SupportsText | None = None,
        model: SupportsText | None = None,
    ) -> Tensors:
        """Run one request and return its outputs."""

    def submit(
        self,
        inputs: Mapping[str, NDArray[Any]],
        *,
        priority: SupportsIndex = 0,
        timeout_s: SupportsFloat | None = None,
        tenant: SupportsText | None = None,
        model: SupportsText | None = None,
    ) -> RequestHandle:
        """Submit one request without waiting; `InputError` if the inputs do not fit the model."""

    def map(
        self,
        stream: Iterable[Mapping[str, NDArray[Any]]] | AsyncIterable[Mapping[str, NDArray[Any]]],
        *,
        ordered: bool = True,
        priority: SupportsIndex = 0,
        timeout_s: SupportsFloat | None = None,
        tenant: SupportsText | None = None,
        model: SupportsText | None = None,
    ) -> AsyncIterator[Tensors]:
        """Run a stream of requests with a bounded number of samples in flight."""

    def samples_to_keep_busy_of(self, model: SupportsText | None) -> int:
        """Return the number of samples in flight that keeps all devices of a model busy."""

    # Models

    @property
    def programs(self) -> Mapping[str, Program]:
        """The inputs and outputs of every model, by name; a model without a name is ""."""

    def program_of(self, model: SupportsText | None) -> Program:
        """Return the inputs and outputs of one model."""

    def config_for_report(self, *, model: SupportsText | None = None) -> Mapping[str, Any]:
        """Return the configuration of one model as plain values, fit for JSON."""

    async def update_backend_options(
        self, *, model: SupportsText | None = None, **options: Any
    ) -> None:
        """Change options while requests continue; `ConfigError` if an option cannot change."""

    # Observation

    def get_metrics(self) -> dict[str, Any]:
        """Return counts and latencies since opening: in all, by device, and by model."""

    def statistics(self, *, model: SupportsText | None = None) -> Statistics:
        """Return the current gauges, after everything that has happened so far."""

    def totals(self, *, model: SupportsText | None = None) -> Totals:
        """Return running totals for sampling at short intervals; has no effect on scheduling."""
