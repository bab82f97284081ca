"""One activation on a card: the vendor's `InferenceSet`, its slots and its waiting thread.

The rules of `executable` apply here; the device's thread there starts the inferences.
"""

from __future__ import annotations

import threading
from collections import deque
from math import prod
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from qaic_sched.backends.aic.status import inference_error, name_of
from qaic_sched.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from qaic_sched.backends.aic.qpc import QpcFile
    from qaic_sched.backends.base import OnCompleted
    from qaic_sched.errors import DeviceErrorKind
    from qaic_sched.program import Tensors

__all__ = ["HANDLE_LIMIT_US", "ActivationOwner", "AicActivation", "AicInference"]

HANDLE_LIMIT_US = 1_000_000
"""Longest wait, in microseconds, for a handle that is known to be free."""
_FATAL = ("lost", "restarted")
"""Kinds of errors after which nothing that is loaded on the device completes any more."""


class ActivationOwner(Protocol):
    """The executable that an activation belongs to, as the activation sees it."""

    device_id: int
    clock: Callable[[], float]
    failure: DeviceError | None

    def complete(
        self, inference_id: int, result: Tensors | DeviceError, completed_at: float
    ) -> None:
        """Pass on the outputs or the error of one inference."""

    def fail(self, error: DeviceError) -> None:
        """Fail every inference on the device, now and from now on."""


class AicInference:
    """One inference between `submit` and its completion."""

    __slots__ = ("activation", "id", "inputs", "on_completed", "rows", "slot", "submitted_at")

    def __init__(
        self,
        inference_id: int,
        activation: int,
        inputs: Mapping[str, object],
        on_completed: OnCompleted,
    ) -> None:
        self.id = inference_id
        self.activation = activation
        self.inputs: Any = inputs
        self.on_completed = on_completed
        self.rows: int  # 0 where the program has but one batch size
        self.slot: _Slot
        self.submitted_at: float


class _Slot:
    """A handle of the runtime, and the buffers of the inference that uses it."""

    __slots__ = ("buffers", "handle", "outputs")

    def __init__(self, handle: Any) -> None:
        self.handle = handle
        self.buffers: list[Any] = []
        self.outputs: dict[int, list[Any]] = {}
        """Number of rows -> output buffers, None in the place of each input; they are reused."""


class AicActivation(threading.Thread):
    """One loaded program: the device's thread starts its inferences, this thread waits for them.

    Put each inference into `started` once it was submitted, in order; None ends the thread.
    """

    def __init__(
        self,
        owner: ActivationOwner,
        index: int,
        runtime: Any,
        file: QpcFile,
        inference_set: Any,
        handles: list[Any],
    ) -> None:
        super().__init__(name=f"qaic-aic-{owner.device_id}-{index}", daemon=True)
        self.started: SimpleQueue[AicInference | None] = SimpleQueue()
        self._owner = owner
        self._index = index
        self._runtime = runtime
        self._success = runtime.QStatus.QS_SUCCESS
        self._file = file
        self._set = inference_set
        self._free = deque(map(_Slot, handles))
        self._completed_at = 0.0
        self._dimensions = {
            rows: runtime.BufferDimensionsVecRef(shapes) for rows, shapes in file.dimensions.items()
        }
        self.start()

    def start_inference(self, inference: AicInference) -> None:
        """Hand an inference to the runtime, or fail it; may block."""
        if not self._free:
            return self._fail(
                inference, self._error("more than set_size inferences were submitted")
            )
        slot = inference.slot = self._free.popleft()
        inference.submitted_at = self._owner.clock()
        try:
            status = self._submit(inference, slot)
        except Exception as error:
            failure = self._error("submitting failed", error)
        else:
            if self._is_ok(status):
                return self.started.put(inference)
            failure = self._status_error(status, inference)
        self._free.appendleft(slot)
        self._fail(inference, failure)

    def run(self) -> None:
        """Complete started inferences in order until None comes, then release the program."""
        while (inference := self.started.get()) is not None:
            if self._owner.failure is None:
                self._finish(inference)
        # On this thread, because the runtime may block here; the slots refer to the set too.
        self._free.clear()
        self._set = None

    def _submit(self, inference: AicInference, slot: _Slot) -> object:
        """Fill the slot's buffers and submit; returns a status, or None for success."""
        inputs, inference.inputs = inference.inputs, None
        inference.rows = rows = len(next(iter(inputs.values()))) if self._dimensions else 0
        slot.buffers = buffers = self._output_buffers(slot, rows).copy()
        for index, binding in enumerate(self._file.bindings):
            if binding.is_input and binding.spec is not None:
                # A copy, because the runtime may keep it.
                buffers[index] = self._runtime.QBuffer(inputs[binding.spec.name].tobytes())
        if self._dimensions:
            # Assumption (not verified on hardware): the ExecObj of a handle takes the dimensions of
            # a specialization just as an ExecObj that was constructed directly does.
            status = slot.handle.execObj().setData(buffers, self._dimensions[rows])
        else:
            status = slot.handle.setBuffers(buffers)
        return self._set.submit(slot.handle, inference.id) if self._is_ok(status) else status

    def _output_buffers(self, slot: _Slot, rows: int) -> list[Any]:
        if rows not in slot.outputs:
            slot.outputs[rows] = [
                None if each.is_input else self._buffer(self._file.size_of(each, rows))
                for each in self._file.bindings
            ]
        return slot.outputs[rows]

    def _buffer(self, size: int) -> Any:
        return self._runtime.QBuffer(np.empty(size, np.uint8))

    def _finish(self, inference: AicInference) -> None:
        """Wait for an inference to end, free its slot, and pass on its result."""
        slot = inference.slot
        result: Tensors | DeviceError
        try:
            status, _ = self._set.getCompletedId(inference.id)
            now = self._owner.clock()
            result = (
                self._outputs(slot, inference)
                if self._is_ok(status)
                else self._status_error(status, inference)
            )
        except Exception as error:
            now = self._owner.clock()
            result = self._error("reading its outputs failed", error)
        self._completed_at = now
        slot.buffers = []
        if isinstance(result, DeviceError) and result.kind in _FATAL:
            return self._owner.fail(result)
        problem = self._recycle(slot)
        self._owner.complete(inference.id, result, now)
        if problem is not None:
            self._owner.fail(problem)

    def _outputs(self, slot: _Slot, inference: AicInference) -> Tensors | DeviceError:
        """The outputs of an inference that succeeded, copied out of the slot's buffers."""
        status, buffers = slot.handle.execObj().getData()
        if not self._is_ok(status):
            return self._status_error(status, inference)
        outputs: Tensors = {}
        for index, binding in enumerate(self._file.bindings):
            if binding.spec is not None and not binding.is_input:
                spec = binding.spec
                shape = (inference.rows, *spec.shape[1:]) if self._dimensions else spec.shape
                flat: NDArray[np.generic] = np.frombuffer(buffers[index], spec.dtype, prod(shape))
                outputs[spec.name] = flat.reshape(shape).copy()
        return outputs

    def _recycle(self, slot: _Slot) -> DeviceError | None:
        """Return the slot's handle and take the free one in its place; an error if that fails."""
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
        reason = f"the runtime gave no handle back ({name_of(problem)}): load the program again"
        return self._error(reason, kind="restarted")

    def _is_ok(self, status: object) -> bool:
        # Assumption (not verified on hardware): calls that are not documented to return a status
        # may return None.
        return status is None or status == self._success

    def _fail(self, inference: AicInference, error: DeviceError) -> None:
        """Complete an inference that was never started with an error."""
        if error.kind in _FATAL:
            self._owner.fail(error)
        self._owner.complete(inference.id, error, self._owner.clock())

    def _status_error(self, status: object, inference: AicInference) -> DeviceError:
        started_at = max(inference.submitted_at, self._completed_at)
        waited_s = self._owner.clock() - started_at
        return inference_error(status, self._owner.device_id, self._index, waited_s)

    def _error(
        self, problem: str, cause: Exception | None = None, kind: DeviceErrorKind = "inference"
    ) -> DeviceError:
        device_id = self._owner.device_id
        because = "" if cause is None else f": {cause}"
        message = f"aic device {device_id}, activation {self._index}: {problem}{because}"
        error = DeviceError(message, device_id, kind=kind)
        # Without its traceback, whose frames would keep the buffers of the inference alive.
        error.__cause__ = cause and cause.with_traceback(None)
        return error
