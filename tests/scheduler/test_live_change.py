"""Live changes of a scheduler on simulated devices: no request fails because of a change."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from qaic_sched.errors import (
    ConfigError,
    DeviceError,
    InternalError,
    NoDeviceError,
    SchedulerClosedError,
)
from qaic_sched.scheduler.front import Scheduler
from qaic_sched.scheduler.replay import replay
from qaic_sched.scheduler.request import ScheduledRequest
from qaic_sched.testing import run_virtual
from tests.hosts import answer_twice, check_log, expected, host, rows


async def _keep_busy(scheduler: Scheduler, stop: asyncio.Event, workers: int = 24) -> int:
    """Run requests from several tasks and check the outputs; return the number of requests."""

    async def work(seed: int) -> int:
        done = 0
        inputs = rows(3, seed)
        while not stop.is_set():
            outputs = await scheduler.run(inputs, timeout_s=1.0)
            assert (outputs["mean"] == expected(inputs)).all()
            done += 1
        return done

    return sum(await asyncio.gather(*(work(seed) for seed in range(workers))))


def _states(scheduler: Scheduler) -> dict[int, tuple[str, int]]:
    devices = scheduler.get_metrics()["devices"]
    return {each: (its["state"], its["activations"]) for each, its in devices.items()}


async def _change_under_load(
    model: str, changes: list[dict[str, Any]], options: dict[str, Any]
) -> tuple[list[dict[int, tuple[str, int]]], dict[str, int]]:
    """Return the devices after each change, and the counts of requests at the end."""
    async with Scheduler(model, **options) as scheduler:
        stop = asyncio.Event()
        load = asyncio.ensure_future(_keep_busy(scheduler, stop))
        await asyncio.sleep(0.1)
        seen = []
        for change in changes:
            await scheduler.update_backend_options(**change)
            seen.append(_states(scheduler))
            await asyncio.sleep(0.1)
        stop.set()
        assert await load > 100
        return seen, scheduler.get_metrics()["requests"]


def test_activations_come_and_go_under_load(tmp_path: Path, checked_log: str) -> None:
    """Activations are added and removed; all outputs are right, and metrics show the number."""
    model = host(tmp_path, devices=2, load_time_s=0.2)
    changes = [{"num_activations": count} for count in (4, 1, 2)]
    seen, requests = run_virtual(
        _change_under_load, model, changes, {"num_activations": 2, "event_log": checked_log}
    )

    assert seen == [{0: ("ready", count), 1: ("ready", count)} for count in (4, 1, 2)]
    assert requests["failed"] == requests["expired"] == requests["rejected"] == 0


def test_devices_come_and_go_under_load(tmp_path: Path, checked_log: str) -> None:
    """A removed device stays in the metrics and may come back."""
    model = host(tmp_path, devices=3, load_time_s=0.2)
    changes: list[dict[str, Any]] = [{"devices": [1, 2]}, {"devices": "all"}]
    seen, requests = run_virtual(
        _change_under_load, model, changes, {"devices": [0], "event_log": checked_log}
    )

    assert seen[0] == {0: ("removed", 0), 1: ("ready", 1), 2: ("ready", 1)}
    assert seen[1] == dict.fromkeys(range(3), ("ready", 1))
    assert requests["failed"] == requests["expired"] == 0


def test_all_at_once_and_set_size(tmp_path: Path, checked_log: str) -> None:
    """One call may change several options; `config` shows the new values."""
    options: dict[str, Any] = {"devices": 2, "set_size": 1, "event_log": checked_log}

    async def main() -> None:
        async with Scheduler(host(tmp_path, devices=3), **options) as scheduler:
            stop = asyncio.Event()
            load = asyncio.ensure_future(_keep_busy(scheduler, stop))
            await asyncio.sleep(0.1)
            assert max(each.in_flight for each in scheduler.statistics().devices.values()) == 1
            await scheduler.update_backend_options(
                num_activations=2, set_size=3, devices=[0, 2], queue={"max_samples": 64}
            )
            assert scheduler.samples_to_keep_busy == 2 * 4 * 3 * 8
            await asyncio.sleep(0.1)
            await scheduler.update_backend_options(set_size=1, batching={"max_queue_delay_s": 0.01})
            await asyncio.sleep(0.1)
            config = scheduler.config
            stop.set()
            await load
        assert (config.num_activations, config.set_size, config.devices) == (2, 1, [0, 2])
        assert (config.queue.max_samples, config.batching.max_queue_delay_s) == (64, 0.01)
        assert scheduler.get_metrics()["requests"]["failed"] == 0

    run_virtual(main)


def test_tenants_get_other_weights_while_both_want_all(tmp_path: Path) -> None:
    """Tenants are served by the weights that hold at the time."""

    async def main() -> None:
        async with Scheduler(host(tmp_path), tenants={"a": {"weight": 3}}) as scheduler:
            answered: list[str] = []
            requests: dict[str, list[ScheduledRequest]] = {"a": [], "b": []}
            for tenant in 1000 * "ab":
                request = scheduler.submit(rows(1), tenant=tenant)
                request.add_done_callback(lambda _, tenant=tenant: answered.append(tenant))
                requests[tenant].append(request)
            await requests["b"][99]
            before = Counter(answered)
            await scheduler.update_backend_options(tenants={"b": {"weight": 3}})
            start = len(answered) + 2 * scheduler.samples_to_keep_busy  # those in flight
            await requests["b"][799]
            after = Counter(answered[start:])
            assert before["a"] / before["b"] == pytest.approx(3, rel=0.1)
            assert after["b"] / after["a"] == pytest.approx(3, rel=0.1)

    run_virtual(main)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "cpu"}, r"backend: cannot be changed while the scheduler runs.*set_size"),
        ({"aic_num_cores": 2}, r"aic_num_cores: cannot be changed"),
        ({"num_activation": 0}, r"num_activations: "),
        ({"devices": []}, r"devices: "),
        ({"devices": [0, 0]}, r"devices: duplicate device ids"),
        ({"devices": [7]}, r"devices: \[7\] not on this host"),
        ({"quue": {}}, r"quue: cannot .*did you mean queue"),
        ({"queue": {"max_sample": 3}}, r"queue.max_sample: unknown key"),
        ({"num_activations": 2, "retry": {"max_attempts": 0}}, r"retry.max_attempts: "),
        ({"num_activations": 99}, r"num_activations: 99 of 1 cores .* do not fit"),
    ],
)
def test_a_bad_change_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    """The error names the key, and nothing has changed."""

    async def main() -> None:
        async with Scheduler(host(tmp_path, devices=2)) as scheduler:
            before, states = scheduler.config, _states(scheduler)
            with pytest.raises(ConfigError, match=message):
                await scheduler.update_backend_options(**options)
            assert scheduler.config is before
            assert _states(scheduler) == states
            await scheduler.run(rows(3))

    run_virtual(main)


def test_a_change_that_fails_on_one_device_is_undone_on_all(
    tmp_path: Path, checked_log: str
) -> None:
    """If a device is lost during the change, the others release what they had added."""
    options: dict[str, Any] = {"num_activations": 1, "event_log": checked_log}
    faults = [{"kind": "lost", "device": 1, "at_s": 0.05, "for_s": 1.0}]
    model = host(tmp_path, devices=3, load_time_s=0.1, faults=faults)

    async def main() -> None:
        async with Scheduler(model, devices=[0, 1], **options) as scheduler:
            with pytest.raises(DeviceError, match="device 1 was lost"):
                await scheduler.update_backend_options(num_activations=2, devices=[0, 1, 2])
            assert _states(scheduler) == {
                0: ("ready", 1),
                1: ("ready", 1),
                2: ("removed", 0),
            }
            assert scheduler.config.num_activations == 1
            await scheduler.run(rows(3), timeout_s=0.5)

    run_virtual(main)


def test_a_quarantined_device_comes_back_with_the_new_number(
    tmp_path: Path, checked_log: str
) -> None:
    """The change does not wait for the device: its reload loads the new number of activations."""
    faults = [{"kind": "lost", "device": 1, "at_s": 0.05, "for_s": 1.0}]
    model = host(tmp_path, devices=2, faults=faults)

    async def main() -> None:
        async with Scheduler(model, num_activations=3, event_log=checked_log) as scheduler:
            stop = asyncio.Event()
            load = asyncio.ensure_future(_keep_busy(scheduler, stop))
            await asyncio.sleep(0.2)
            assert _states(scheduler)[1] == ("quarantined", 3)
            await scheduler.update_backend_options(num_activations=2)
            assert _states(scheduler) == {0: ("ready", 2), 1: ("quarantined", 3)}
            await asyncio.sleep(5.0)
            assert _states(scheduler) == {0: ("ready", 2), 1: ("ready", 2)}
            stop.set()
            await load

    run_virtual(main)


def test_the_last_working_devices_cannot_be_removed(tmp_path: Path) -> None:
    """While all others are in quarantine, a device is not removed and continues to work."""
    faults = [{"kind": "lost", "device": 1, "at_s": 0.05}]
    model = host(tmp_path, devices=2, faults=faults)

    async def main() -> None:
        async with Scheduler(model) as scheduler:
            await asyncio.gather(*(scheduler.run(rows(8)) for _ in range(40)))
            with pytest.raises(NoDeviceError, match=r"devices: \[0\] cannot be removed"):
                await scheduler.update_backend_options(devices=[1])
            assert scheduler.config.devices == "all"
            await scheduler.run(rows(3))
            await scheduler.update_backend_options(devices=[0])
            assert _states(scheduler) == {0: ("ready", 1), 1: ("removed", 0)}
            await asyncio.sleep(60.0)
            assert _states(scheduler)[1] == ("removed", 0)

    run_virtual(main)


def test_a_device_that_hangs_can_be_removed(tmp_path: Path, checked_log: str) -> None:
    """Its stuck inference is retried elsewhere, and other devices are removed without waiting."""
    options: dict[str, Any] = {"health": {"dispatch_timeout_s": 2.0}, "event_log": checked_log}
    faults = [{"kind": "hang", "device": 1, "at_s": 0.05}]
    model = host(tmp_path, devices=3, faults=faults)

    async def main() -> None:
        async with Scheduler(model, **options) as scheduler:
            load = [scheduler.submit(rows(8)) for _ in range(60)]
            await asyncio.sleep(0.06)
            change = asyncio.ensure_future(scheduler.update_backend_options(devices=[0]))
            await asyncio.sleep(0.1)
            assert _states(scheduler)[2] == ("removed", 0)
            assert _states(scheduler)[1] == ("retiring", 1)
            assert scheduler.statistics().devices[1].in_flight > 0
            await change
            assert asyncio.get_running_loop().time() < 3.0
            assert _states(scheduler)[1] == ("removed", 0)
            await asyncio.gather(*load)

    run_virtual(main)


def test_an_activation_that_hangs_is_removed_by_a_reload(tmp_path: Path, checked_log: str) -> None:
    """The change ends when the device is reloaded with fewer activations."""
    faults = [{"kind": "hang", "device": 1, "at_s": 0.05, "for_s": 3.0}]
    model = host(tmp_path, devices=2, faults=faults)

    async def main() -> None:
        options: dict[str, Any] = {"health": {"dispatch_timeout_s": 1.0}, "event_log": checked_log}
        async with Scheduler(model, num_activations=2, **options) as scheduler:
            load = [scheduler.submit(rows(8)) for _ in range(60)]
            await asyncio.sleep(0.06)
            await scheduler.update_backend_options(num_activations=1)
            assert scheduler.config.num_activations == 1
            await asyncio.sleep(10.0)
            assert {its[1] for its in _states(scheduler).values()} == {1}
            await asyncio.gather(*load)

    run_virtual(main)


def test_changes_do_not_overlap(tmp_path: Path) -> None:
    """A second change begins when the first has ended, with the layout that the first left."""
    model = host(tmp_path, devices=2, load_time_s=0.5)

    async def main() -> None:
        async with Scheduler(model) as scheduler:
            await asyncio.gather(
                scheduler.update_backend_options(num_activations=4),
                scheduler.update_backend_options(devices=[0]),
                scheduler.update_backend_options(num_activations=2),
            )
            assert _states(scheduler) == {0: ("ready", 2), 1: ("removed", 0)}

    run_virtual(main)


def test_a_change_continues_if_its_caller_is_cancelled(tmp_path: Path) -> None:
    """Closing the scheduler ends a change with `SchedulerClosedError`."""
    model = host(tmp_path, devices=2, load_time_s=0.5)

    async def main() -> None:
        async with Scheduler(model) as scheduler:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(scheduler.update_backend_options(num_activations=2), 0.1)
            await asyncio.sleep(1.0)
            assert scheduler.config.num_activations == 2
            change = asyncio.ensure_future(scheduler.update_backend_options(num_activations=3))
            await asyncio.sleep(0.1)
        with pytest.raises(SchedulerClosedError, match="closed during the change"):
            await change
        with pytest.raises(SchedulerClosedError):
            await scheduler.update_backend_options(num_activations=3)

    run_virtual(main)


def test_a_log_with_every_change_replays(tmp_path: Path) -> None:
    """The log has every event and decision of live changes, and replays."""
    model, log = host(tmp_path, devices=3, load_time_s=0.1), tmp_path / "log"
    changes: list[dict[str, Any]] = [
        {"num_activations": 3, "set_size": 3},
        {"devices": [1], "num_activations": 1, "retry": {"max_attempts": 4}},
        {"batching": {"max_queue_delay_s": float("inf")}, "tenants": {"a": {"share": 0.5}}},
        {"batching": {"max_queue_delay_s": 0.0}, "devices": 2},
    ]
    run_virtual(_change_under_load, model, changes, {"devices": 2, "event_log": str(log)})
    check_log(log)
    result = replay(log)

    assert result.difference is None
    assert result.requests > 100
    kinds = ("activations_added", "activations_retired", "device_retired", "policy_changed")
    text = log.read_text()
    for kind in (*kinds, "set_size_changed", "unload", "close"):
        assert f'"event":"{kind}"' in text


def test_a_change_ends_with_a_scheduler_that_breaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change that waits and every later one raise `InternalError`."""
    model = host(tmp_path, devices=2)

    async def main() -> None:
        async with Scheduler(model) as scheduler:
            answer_twice(monkeypatch)
            load = [scheduler.submit(rows(8)) for _ in range(4)]
            await asyncio.sleep(0.005)
            change = asyncio.ensure_future(scheduler.update_backend_options(devices=[0]))
            with pytest.raises(InternalError, match="broke one of its rules"):
                await change
            with pytest.raises(InternalError):
                await scheduler.update_backend_options(devices=[0])
            await asyncio.gather(*load, return_exceptions=True)

    run_virtual(main)
