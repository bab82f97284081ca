"""One loaded program on a card: the vendor's `InferenceSet`, its slots, and who awaits its answers.

The rules are those of `executable`, whose device's thread starts inferences here.
"""

from __future__ import annotations

import threading
from collections import deque
from math import prod
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from qaic_sched.backends.aic.status import inference_error, name_of
from qaic_sched.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from qaic_sched.backends.aic.executable import AicExecutable
    from qaic_sched.backends.aic.qpc import QpcFile
    from qaic_sched.backends.base import OnCompleted
    from qaic_sched.errors import DeviceErrorKind
    from qaic_sched.program import Tensors

__all__ = ["HANDLE_LIMIT_US", "Activation", "Flight"]

HANDLE_LIMIT_US = 1_000_000
"""Longest wait for a handle that is known to be free."""
_FATAL = ("lost", "restarted")
"""The kinds of errors after which nothing that is loaded answers any more."""


class Flight:
    """One inference between `submit` and its answer."""

    __slots__ = ("activation", "id", "inputs", "on_completed", "rows", "slot", "submitted_at")

    def __init__(
        self,
        flight_id: int,
        activation: int,
        inputs: Mapping[str, object],
        on_completed: OnCompleted,
    ) -> None:
        self.id = flight_id
        self.activation = activation
        self.inputs: Any = inputs
        self.on_completed = on_completed
        self.rows: int  # 0 where the program has but one batch size
        self.slot: _Slot
        self.submitted_at: float


class _Slot:
    """A handle of the runtime, and the buffers that the inference on it uses."""

    __slots__ = ("buffers", "handle", "outputs")

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.buffers: list[Any] = []
        self.outputs: dict[int, list[Any]] = {}
        """Output buffers by number of rows, None in the places of inputs; used again and again."""


class Activation(threading.Thread):
    """One loaded program: the device's thread starts its inferences, this one awaits the answers.

    `flights` takes inferences that were started, in order, and None to end.
    """

    def __init__(
        self,
        owner: AicExecutable,
        index: int,
        runtime: Any,
        file: QpcFile,
        inference_set: Any,
        handles: list[Any],
    ) -> None:
        super().__init__(name=f"qaic-aic-{owner.device_id}-{index}", daemon=True)
        self.flights: SimpleQueue[Flight | None] = SimpleQueue()
        self._owner = owner
        self._index = index
        self._runtime = runtime
        self._success = runtime.QStatus.QS_SUCCESS
        self._file = file
        self._set = inference_set
        self._free = deque(map(_Slot, handles))
        self._answered_at = 0.0
        self._dimensions = {
            rows: runtime.BufferDimensionsVecRef(shapes) for rows, shapes in file.dimensions.items()
        }
        self.start()

    def start_inference(self, flight: Flight) -> None:
        """Hand an inference to the runtime, or answer why that failed; may block."""
        if not self._free:
            return self._fail(flight, self._error("more than set_size inferences were submitted"))
        slot = flight.slot = self._free.popleft()
        flight.submitted_at = self._owner.clock()
        try:
            status = self._submit(flight, slot)
        except Exception as error:
            failure = self._error("submitting failed", error)
        else:
            if self._is_ok(status):
                return self.flights.put(flight)
            failure = self._status_error(status, flight)
        self._free.appendleft(slot)
        self._fail(flight, failure)

    def run(self) -> None:
        """Bring answers back until there are no more flights; then give the program back."""
        while (flight := self.flights.get()) is not None:
            if self._owner.failure is None:
                self._complete(flight)
        # On this thread, since the runtime may block in it; the slots refer to the set too.
        self._free.clear()
        self._set = None

    def _submit(self, flight: Flight, slot: _Slot) -> object:
        """Fill the slot's buffers and submit; a status, or None which is as good."""
        inputs, flight.inputs = flight.inputs, None
        flight.rows = rows = len(next(iter(inputs.values()))) if self._dimensions else 0
        slot.buffers = buffers = self._output_buffers(slot, rows).copy()
        for index, binding in enumerate(self._file.bindings):
            if binding.is_input and binding.spec is not None:
                # A copy, which is the runtime's to keep.
                buffers[index] = self._runtime.QBuffer(inputs[binding.spec.name].tobytes())
        if self._dimensions:
            # Assumption (not verified on hardware): a handle's ExecObj takes the specialization's
            # dimensions as one that was made directly does.
            status = slot.handle.execObj().setData(buffers, self._dimensions[rows])
        else:
            status = slot.handle.setBuffers(buffers)
        return self._set.submit(slot.handle, flight.id) if self._is_ok(status) else status

    def _output_buffers(self, slot: _Slot, rows: int) -> list[Any]:
        if rows not in slot.outputs:
            slot.outputs[rows] = [
                None if each.is_input else self._buffer(self._file.size_of(each, rows))
                for each in self._file.bindings
            ]
        return slot.outputs[rows]

    def _buffer(self, size: int) -> Any:
        return self._runtime.QBuffer(np.empty(size, np.uint8))

    def _complete(self, flight: Flight) -> None:
        """Wait for an answer, make its slot free, and pass it on."""
        slot = flight.slot
        answer: Tensors | DeviceError
        try:
            status, _ = self._set.getCompletedId(flight.id)
            now = self._owner.clock()
            answer = (
                self._outputs(slot, flight)
                if self._is_ok(status)
                else self._status_error(status, flight)
            )
        except Exception as error:
            now = self._owner.clock()
            answer = self._error("reading its answer failed", error)
        self._answered_at = now
        slot.buffers = []
        if isinstance(answer, DeviceError) and answer.kind in _FATAL:
            return self._owner.fail(answer)
        problem = self._recycle(slot)
        self._owner.answer(flight.id, answer, now)
        if problem is not None:
            self._owner.fail(problem)

    def _outputs(self, slot: _Slot, flight: Flight) -> Tensors | DeviceError:
        """The outputs of an inference that succeeded, in arrays of their own."""
        status, buffers = slot.handle.execObj().getData()
        if not self._is_ok(status):
            return self._status_error(status, flight)
        outputs: Tensors = {}
        for index, binding in enumerate(self._file.bindings):
            if binding.spec is not None and not binding.is_input:
                spec = binding.spec
                shape = (flight.rows, *spec.shape[1:]) if self._dimensions else spec.shape
                flat: NDArray[np.generic] = np.frombuffer(buffers[index], spec.dtype, prod(shape))
                outputs[spec.name] = flat.reshape(shape).copy()
        return outputs

    def _recycle(self, slot: _Slot) -> DeviceError | None:
        """Give the slot's handle back and take the one that is then free; what is wrong, if any."""
        problem: object
        try:
            problem = self._set.putCompleted(slot.handle)
            if self._is_ok(problem):
                problem, slot.handle = self._set.getAvailable(HANDLE_LIMIT_US)
        except Exception as error:
            problem = error
        if self._is_ok(problem):
            self._free.append(slot)
            return None
        reason = f"the runtime gave no handle back ({name_of(problem)}), load the program again"
        return self._error(reason, kind="restarted")

    def _is_ok(self, status: object) -> bool:
        # Assumption (not verified on hardware): what is not documented to return a status may
        # return None.
        return status is None or status == self._success

    def _fail(self, flight: Flight, error: DeviceError) -> None:
        """Answer an inference that was never started."""
        if error.kind in _FATAL:
            self._owner.fail(error)
        self._owner.answer(flight.id, error, self._owner.clock())

    def _status_error(self, status: object, flight: Flight) -> DeviceError:
        started_at = max(flight.submitted_at, self._answered_at)
        waited_s = self._owner.clock() - started_at
        return inference_error(status, self._owner.device_id, self._index, waited_s)

    def _error(
        self, problem: str, cause: Exception | None = None, kind: DeviceErrorKind = "inference"
    ) -> DeviceError:
        device_id = self._owner.device_id
        because = "" if cause is None else f": {cause}"
        message = f"aic device {device_id}, activation {self._index}: {problem}{because}"
        error = DeviceError(message, device_id, kind=kind)
        # Without its traceback, whose frames would keep the inference's buffers.
        error.__cause__ = cause and cause.with_traceback(None)
        return error
