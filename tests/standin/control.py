"""The stand-in's devices, which tests set up, break and inspect.

They run on real threads in real time, in milliseconds: the binding blocks, so its stand-in must.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict, deque
from threading import Condition, Event
from typing import Any
from weakref import WeakSet

devices: dict[int, Device] = {}
"""Device id -> device; `reset` makes them."""
list_status: list[str] = []
"""The statuses of the next listings of devices, instead of QS_SUCCESS."""
listing_may_go_on = Event()


class Device:
    """One device of the stand-in, with its current faults."""

    def __init__(self, device_id: int, cores: int, execute_s: float) -> None:
        self.device_id = device_id
        self.cores = self.cores_free = cores
        self.execute_s = execute_s
        self.dev_status = 1
        self.changed = Condition()
        self.engines: WeakSet[Any] = WeakSet()
        self.is_lost = False
        self.hangs_until = 0.0
        self.gives_up_after_s = math.inf
        self.late_s = 0.0
        self.queries_may_go_on = Event()
        self.queries_may_go_on.set()
        self.submits_may_go_on = Event()
        self.submits_may_go_on.set()
        self.loads_may_go_on = Event()
        self.loads_may_go_on.set()
        self._next: defaultdict[str, deque[Any]] = defaultdict(deque)
        self.num_run = 0
        self.gaps: list[tuple[float, float]] = []
        """(start, end) of each idle time of an activation after its first inference."""

    def answer_next(self, call: str, *answers: Any) -> None:
        """Set the results of the next calls of a method: statuses by name, or exceptions."""
        self._next[call].extend(answers)

    def answer_to(self, call: str) -> str | None:
        """The status that a test has set for this call, or None; raises a set exception."""
        if not self._next[call]:
            return None
        answer = self._next[call].popleft()
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    def lose(self) -> None:
        """Take the device off the bus: every call ends with QS_NODEV, queries included."""
        self.is_lost = True
        self._break("QS_NODEV")

    def restart(self) -> None:
        """Restart the cores: loaded programs are gone, new ones can be loaded."""
        self._break("QS_DEV_ERROR")

    def hang(self, for_s: float = math.inf, gives_up_after_s: float = math.inf) -> None:
        """Complete nothing for a time; the driver gives up on inferences with QS_ERROR."""
        with self.changed:
            self.hangs_until = time.monotonic() + for_s
            self.gives_up_after_s = gives_up_after_s
            self.changed.notify_all()

    def _break(self, status: str) -> None:
        with self.changed:
            for engine in self.engines:
                engine.broken = engine.broken or status
            self.changed.notify_all()


def reset(num_devices: int = 2, cores: int = 16, execute_s: float = 0.001) -> None:
    """Make new devices; calls that wait for old ones end."""
    for device in devices.values():
        for may_go_on in (
            device.queries_may_go_on,
            device.submits_may_go_on,
            device.loads_may_go_on,
        ):
            may_go_on.set()
        device.lose()
    devices.clear()
    list_status.clear()
    listing_may_go_on.set()
    devices.update({qid: Device(qid, cores, execute_s) for qid in range(num_devices)})
