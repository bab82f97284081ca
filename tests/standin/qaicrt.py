"""A stand-in for the vendor's binding `qaicrt`, with documented signatures and behaviour.

It has only the part that `backends/aic/` and scripts with an `InferenceSet` use. The binding comes
with the SDK only; `test_signatures.py` compares the stand-in with its documentation. The devices
are those of `tests.standin.control`.
"""

from __future__ import annotations

import time
import weakref
from collections import deque
from enum import Enum, IntEnum
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.standin import QAicApi_pb2 as api
from tests.standin import control
from tests.standin.qpc import HEADER

REQUIRED: Any = object()
"""The default of a parameter that has no documented default, but follows one that has."""
NUMPY = {
    api.FLOAT_TYPE: np.float32,
    api.FLOAT_16_TYPE: np.float16,
    api.INT32_I_TYPE: np.int32,
    api.INT64_I_TYPE: np.int64,
}


class QStatus(IntEnum):
    """The result of a call."""

    QS_SUCCESS = 0
    QS_PERM = 1
    QS_AGAIN = 2
    QS_NOMEM = 3
    QS_BUSY = 4
    QS_NODEV = 5
    QS_INVAL = 6
    QS_NOSPC = 7
    QS_BADFD = 8
    QS_TIMEDOUT = 9
    QS_PROTOCOL = 10
    QS_UNSUPPORTED = 11
    QS_DATA_CRC_ERROR = 12
    QS_DEV_ERROR = 300
    QS_ERROR = 500


class QDevStatus(IntEnum):
    """The state of a device."""

    QDS_INITIALIZING = 0
    QDS_READY = 1
    QDS_ERROR = 2


class BufferIoTypeEnum(Enum):
    """The side that writes a buffer."""

    BUFFER_IO_TYPE_INPUT = 1
    BUFFER_IO_TYPE_OUTPUT = 2


class QAicDeviceType(Enum):
    """The kind of devices to list."""

    QAIC_DEVICE_TYPE_DEFAULT = 0


OK = QStatus.QS_SUCCESS
QAIC_DEVICE_TYPE_DEFAULT = QAicDeviceType.QAIC_DEVICE_TYPE_DEFAULT


class QIDList(list):  # type: ignore[type-arg]
    """Device ids."""


class BufferDimensionsVecRef(list):  # type: ignore[type-arg]
    """(bytes per element, shape) of each buffer."""


class QBuffer(bytearray):
    """Memory for one input or output."""

    def __init__(self, data: Any) -> None:
        super().__init__(memoryview(data).cast("B"))

    @property
    def size(self) -> int:
        """The size in bytes."""
        return len(self)


class Util:
    """Queries of devices."""

    def getDeviceIds(
        self, deviceType: QAicDeviceType = QAIC_DEVICE_TYPE_DEFAULT
    ) -> tuple[QStatus, QIDList]:
        control.listing_may_go_on.wait()
        if control.list_status:
            return QStatus[control.list_status.pop(0)], QIDList()
        return OK, QIDList(control.devices)

    def getDeviceInfo(self, devID: int) -> tuple[QStatus, Any]:
        device = control.devices[devID]
        device.queries_may_go_on.wait()
        status = _status(device, "getDeviceInfo")
        if status is not OK:
            return status, None
        return OK, SimpleNamespace(
            devStatus=QDevStatus(device.dev_status),
            name=f"/dev/accel/accel{devID}",
            pciInfo=SimpleNamespace(domain=0, bus=0x21 + devID, device=0, function=0),
            devData=SimpleNamespace(serial=f"S{devID}", resourceInfo=_resources(device)),
        )

    def getResourceInfo(self, devID: int) -> tuple[QStatus, Any]:
        device = control.devices[devID]
        return _status(device, "getResourceInfo"), _resources(device)


def _status(device: control.Device, call: str) -> QStatus:
    """The status of a call: the one that a test has set, else that of the device."""
    wanted = device.answer_to(call)
    return QStatus[wanted or ("QS_NODEV" if device.is_lost else "QS_SUCCESS")]


def _resources(device: control.Device) -> Any:
    return SimpleNamespace(
        nspTotal=device.cores,
        nspFree=device.cores_free,
        dramTotal=16384,
        dramFree=16000,
        skuType=SimpleNamespace(name="STANDIN_SKU"),
    )


class Context:
    """The devices that a process uses."""

    def __init__(self, devList: QIDList = REQUIRED) -> None:
        self.device_ids = list(control.devices) if devList is REQUIRED else list(devList)


class Qpc:
    """A compiled model: the only `*.bin` in a folder, in the stand-in's format."""

    def __init__(self, path: str) -> None:
        [file] = Path(path).glob("*.bin")
        data = file.read_bytes()
        if not data.startswith(HEADER):
            raise RuntimeError("not a QPC of the stand-in")
        self.data = data.removeprefix(HEADER)

    def getIoDescriptor(self) -> tuple[QStatus, bytes]:
        return (OK, self.data) if self.data else (QStatus.QS_INVAL, b"")

    def getBufferMappings(self) -> list[Any]:
        return [
            SimpleNamespace(
                bufferName=each.name,
                index=each.index,
                ioType=_IO_TYPES[each.dir],
                size=each.size,
                isPartialBufferAllowed=False,
                dataType=each.type,
            )
            for each in self.describe().selected_set.bindings
        ]

    def describe(self) -> Any:
        """The content of the file; only the stand-in has this method."""
        description = api.IoDesc()
        description.ParseFromString(self.data)
        return description


_IO_TYPES = {
    api.BUFFER_IO_TYPE_INPUT: BufferIoTypeEnum.BUFFER_IO_TYPE_INPUT,
    api.BUFFER_IO_TYPE_OUTPUT: BufferIoTypeEnum.BUFFER_IO_TYPE_OUTPUT,
}


class ExecObj:
    """The data of one inference; the SDK's constructor is not part of the stand-in."""

    def __init__(self, device: control.Device) -> None:
        self.device = device
        self.buffers: list[QBuffer] = []
        self.dims: Any = None

    def setData(self, qbuffers: list[QBuffer], dims: Any = None) -> QStatus:
        self.buffers, self.dims = list(qbuffers), dims
        return _status(self.device, "setData")

    def getData(self) -> tuple[QStatus, list[QBuffer]]:
        return _status(self.device, "getData"), self.buffers


class InferenceHandle:
    """A place for one of the inferences that a set can hold."""

    def __init__(self, device: control.Device) -> None:
        self._exec_obj = ExecObj(device)

    def setBuffers(self, buffers: list[QBuffer]) -> QStatus:
        return self._exec_obj.setData(buffers)

    def execObj(self) -> ExecObj:
        return self._exec_obj


class InferenceSet:
    """A program loaded on a device; it is released with the last reference."""

    def __init__(
        self,
        context: Context,
        qpc: Qpc,
        devId: int | None = None,
        setSize: int = REQUIRED,
        numActivations: int = REQUIRED,
        properties: Any = None,
        enableProfiling: bool = False,
    ) -> None:
        assert devId is not None
        assert devId in context.device_ids
        device = control.devices[devId]
        device.loads_may_go_on.wait()
        status = _status(device, "InferenceSet")
        if status is not OK:
            raise RuntimeError(f"Failed to load program: {status.name}")
        self._engine = _Engine(device, qpc.describe(), setSize, numActivations)
        weakref.finalize(self, self._engine.close)

    def getAvailable(self, timeoutUs: int = 0) -> tuple[QStatus, InferenceHandle | None]:
        """Wait for a free handle, for ever if the limit is 0."""
        return self._engine.get_available(timeoutUs / 1e6 or None)

    def submit(self, handle: InferenceHandle, id: int) -> QStatus:  # noqa: A002
        engine = self._engine
        engine.device.submits_may_go_on.wait()
        status = _status(engine.device, "submit")
        return engine.submit(handle, id) if status is OK else status

    def getCompletedId(self, id: int) -> tuple[QStatus, InferenceHandle | None]:  # noqa: A002
        """Wait until the inference with this id has ended."""
        return self._engine.get_completed(id)

    def putCompleted(self, handle: InferenceHandle) -> QStatus:
        """Return a handle, so that `getAvailable` can give it out again; mandatory."""
        status = _status(self._engine.device, "putCompleted")
        return self._engine.put_completed(handle) if status is OK else status


class _Engine:
    """Runs the inferences of a set, on a thread per activation that does not keep the set alive."""

    def __init__(
        self, device: control.Device, description: Any, set_size: int, num_activations: int
    ) -> None:
        self.device = device
        self.changed = device.changed
        self.broken: str | None = None
        self.is_closed = False
        self.bindings = description.selected_set.bindings
        self.cores = description.cores * num_activations
        self.available = deque(InferenceHandle(device) for _ in range(set_size * num_activations))
        self.queued: deque[tuple[int, InferenceHandle]] = deque()
        self.completed: dict[int, tuple[QStatus, InferenceHandle]] = {}
        with self.changed:
            if device.cores_free < self.cores:
                raise RuntimeError("Failed to load program: QS_NOSPC")
            device.cores_free -= self.cores
            device.engines.add(self)
        for _ in range(num_activations):
            Thread(target=self._work, name="standin-activation", daemon=True).start()

    def close(self) -> None:
        with self.changed:
            self.is_closed = True
            self.device.cores_free += self.cores
            self.changed.notify_all()

    def status(self) -> QStatus:
        return QStatus[self.broken or "QS_SUCCESS"]

    def get_available(self, limit_s: float | None) -> tuple[QStatus, InferenceHandle | None]:
        wanted = _status(self.device, "getAvailable")
        if wanted is not OK:
            return wanted, None
        with self.changed:
            is_there = self.changed.wait_for(lambda: self.available or self.broken, limit_s)
            if not is_there:
                return QStatus.QS_TIMEDOUT, None
            return (self.status(), None) if self.broken else (OK, self.available.popleft())

    def submit(self, handle: InferenceHandle, inference_id: int) -> QStatus:
        with self.changed:
            if not self.broken:
                self.queued.append((inference_id, handle))
                self.changed.notify_all()
            return self.status()

    def get_completed(self, inference_id: int) -> tuple[QStatus, InferenceHandle | None]:
        wanted = _status(self.device, "getCompletedId") if not self.device.is_lost else OK
        with self.changed:
            self.changed.wait_for(lambda: inference_id in self.completed or self.broken)
            status, handle = self.completed.pop(inference_id, (self.status(), None))
        return (status if wanted is OK else wanted), handle

    def put_completed(self, handle: InferenceHandle) -> QStatus:
        with self.changed:
            self.available.append(handle)
            self.changed.notify_all()
        return OK

    def _work(self) -> None:
        idle_since = None
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.queued or self.is_closed or self.broken)
                if self.is_closed or self.broken:
                    return
                inference_id, handle = self.queued.popleft()
            started_at = time.monotonic()
            if idle_since is not None:
                self.device.gaps.append((idle_since, started_at))
            status = self._run(started_at)
            if status is OK:
                self._compute(handle.execObj())
            with self.changed:
                self.completed[inference_id] = status, handle
                self.device.num_run += 1
                # A queued inference would begin at once, however late this thread is.
                idle_since = None if self.queued else time.monotonic()
                self.changed.notify_all()

    def _run(self, started_at: float) -> QStatus:
        """Take the execution time of the device, with its faults."""
        device = self.device
        late_s, device.late_s = device.late_s, 0.0
        ends_at = started_at + device.execute_s + late_s
        with self.changed:
            while not self.broken and not self.is_closed:
                now = time.monotonic()
                if device.hangs_until > now and now - started_at >= device.gives_up_after_s:
                    return QStatus.QS_ERROR
                until = max(ends_at, device.hangs_until)
                if until <= now:
                    return OK
                gives_up_at = started_at + device.gives_up_after_s
                if device.hangs_until > now:
                    until = min(until, gives_up_at)
                self.changed.wait(None if until == float("inf") else until - now)
            return self.status()

    def _compute(self, exec_obj: ExecObj) -> None:
        """Fill the outputs with the float64 mean of each row, as simulated cards do."""
        inputs: list[Any] = []
        outputs: list[Any] = []
        for each in self.bindings:
            dims = exec_obj.dims[each.index][1] if exec_obj.dims else each.dims
            array = np.frombuffer(exec_obj.buffers[each.index], NUMPY.get(each.type, np.int8))
            rows = array.reshape(dims[0] if dims else 1, -1)
            (inputs if each.dir == api.BUFFER_IO_TYPE_INPUT else outputs).append(rows)
        sums: Any = sum(rows.sum(axis=1, dtype=np.float64) for rows in inputs)
        means = sums / sum(rows.shape[1] for rows in inputs)
        for rows in outputs:
            rows[...] = means[:, None]
