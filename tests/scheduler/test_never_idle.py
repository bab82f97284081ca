"""No healthy device idles while work waits, whatever the others do; exactly, on simulated devices.

The same with real threads is in `tests/backends/aic/test_aic_scheduler.py`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from qaic_sched.scheduler.front import Scheduler
from qaic_sched.testing import run_virtual
from tests.backlog import Backlog
from tests.hosts import expected, host, rows

if TYPE_CHECKING:
    from pathlib import Path

NUM_REQUESTS = 10_000
SERVICE_S = 0.003
UNTOUCHED = (0, 3)


def faulty_host(folder: Path, hangs_for_s: float | None) -> str:
    """Write four devices: 1 restarts and is later lost for good; 2 hangs meanwhile.

    An activation pauses between two inferences unless it has the next before the first ends.
    """
    hang: dict[str, Any] = {"kind": "hang", "device": 2, "at_s": 0.1}
    if hangs_for_s is not None:
        hang["for_s"] = hangs_for_s
    restart = {"kind": "lost", "device": 1, "at_s": 0.05, "for_s": 0.001}
    loss = {"kind": "lost", "device": 1, "at_s": 0.25}
    return host(
        folder,
        devices=4,
        service_time_s=SERVICE_S,
        host_turnaround_s=0.0003,
        faults=[restart, hang, loss],
    )


def serve(folder: Path, path: str, **options: Any) -> tuple[Backlog, dict[str, Any]]:
    """Run all requests at once and check their outputs; return the backlog and the metrics."""
    inputs = rows(NUM_REQUESTS)["data"]
    wanted = expected({"data": inputs})

    log = folder / "run.jsonl"

    async def main() -> dict[str, Any]:
        async with Scheduler(path, event_log=str(log), **options) as scheduler:
            requests = [scheduler.submit({"data": inputs[i : i + 1]}) for i in range(len(inputs))]
            for row, request in enumerate(requests):
                np.testing.assert_array_equal((await request)["mean"], wanted[row : row + 1])
            assert scheduler.statistics().done == scheduler.statistics().accepted == NUM_REQUESTS
            return scheduler.get_metrics()

    metrics = run_virtual(main)
    return Backlog(log, UNTOUCHED), metrics


def pauses(answers: list[float]) -> list[tuple[float, float]]:
    """Return the spans in which an activation did nothing, up to its last answer."""
    ends = [0.0, *answers]
    # Added as the simulated device adds, so that rounding makes no pause.
    return [
        (end, next_end - SERVICE_S)
        for end, next_end in pairwise(ends)
        if next_end != end + SERVICE_S
    ]


@pytest.mark.parametrize("hangs_for_s", [0.2, None])
@pytest.mark.parametrize("num_activations", [1, 3])
def test_healthy_devices_never_idle_while_work_waits(
    tmp_path: Path, num_activations: int, hangs_for_s: float | None
) -> None:
    """While others restart, are lost or hang, two devices begin each inference as one ends."""
    path = faulty_host(tmp_path, hangs_for_s)
    backlog, metrics = serve(tmp_path, path, num_activations=num_activations, set_size=2)
    devices = metrics["devices"]
    assert devices[1]["errors"] > 2 * num_activations, "it was lost only once"
    assert devices[1]["state"] == "quarantined"
    # An inference that hangs for ever is given up seconds later and run again: a second backlog.
    (begin, end), *_ = backlog.spans
    assert begin == 0.0
    assert end > 0.35, "the backlog was over before the last fault"
    for device_id in UNTOUCHED:
        assert devices[device_id]["errors"] == 0
        for index in range(num_activations):
            answers = backlog.answers[device_id, index]
            gaps = pauses(answers)
            assert [gap for gap in gaps if gap[0] <= end] == []
            assert backlog.overlap_s(gaps) < 1e-9
            assert answers[-1] >= backlog.spans[-1][1]
    assert backlog.left_idle == backlog.without_next == []


def test_an_activation_that_holds_one_inference_pauses_after_each(tmp_path: Path) -> None:
    """With `set_size` 1 every pause is the host's turnaround: the test above can see pauses."""
    backlog, _ = serve(tmp_path, faulty_host(tmp_path, 0.2), set_size=1)
    for device_id in UNTOUCHED:
        answers = backlog.answers[device_id, 0]
        lengths = [end - start for start, end in pauses(answers)]
        assert len(lengths) == len(answers) - 1
        assert lengths == pytest.approx([0.0003] * len(lengths))
