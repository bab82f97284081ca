"""The stand-in's cards: what tests set up, break and look into.

Real threads and real time, in milliseconds: the binding blocks, so its stand-in must.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict, deque
from threading import Condition, Event
from typing import Any
from weakref import WeakSet

devices: dict[int, Device] = {}
"""By QID. `reset` makes them."""
list_status: list[str] = []
"""What the next listings of devices end with instead of QS_SUCCESS."""
listing_may_go_on = Event()


class Device:
    """One device of the stand-in, and the faults that it has now."""

    def __init__(self, device_id: int, cores: int, service_s: float) -> None:
        self.device_id = device_id
        self.cores = self.cores_free = cores
        self.service_s = service_s
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
        """When an activation had nothing to do, since its first inference."""

    def answer_next(self, call: str, *answers: Any) -> None:
        """What the next calls of this method end with: a status by name, or an exception."""
        self._next[call].extend(answers)

    def answer_to(self, call: str) -> str | None:
        """The status that a test wants here, None if it wants nothing; raises an exception."""
        if not self._next[call]:
            return None
        answer = self._next[call].popleft()
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    def lose(self) -> None:
        """The device goes off the bus: everything on it ends with QS_NODEV, and cannot be asked."""
        self.is_lost = True
        self._break("QS_NODEV")

    def restart(self) -> None:
        """The cores restart: what is loaded is gone, new programs can be loaded."""
        self._break("QS_DEV_ERROR")

    def hang(self, for_s: float = math.inf, gives_up_after_s: float = math.inf) -> None:
        """Nothing is answered meanwhile; the driver gives an inference up with QS_ERROR."""
        with self.changed:
            self.hangs_until = time.monotonic() + for_s
            self.gives_up_after_s = gives_up_after_s
            self.changed.notify_all()

    def _break(self, status: str) -> None:
        with self.changed:
            for engine in self.engines:
                engine.broken = engine.broken or status
            self.changed.notify_all()


def reset(num_devices: int = 2, cores: int = 16, service_s: float = 0.001) -> None:
    """New devices; whatever waits for the old ones ends."""
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
    devices.update({qid: Device(qid, cores, service_s) for qid in range(num_devices)})
