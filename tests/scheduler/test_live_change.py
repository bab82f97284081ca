"""Live changes of a whole scheduler on simulated cards: nothing fails, and what is asked is so."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from qaic_sched.core.events import DeviceRetired
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
from tests.hosts import check_after_every_event, expected, host, rows


async def _keep_busy(scheduler: Scheduler, stop: asyncio.Event, workers: int = 24) -> int:
    """Closed-loop load, each answer checked; how many requests were done."""

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
    """The devices after each change, and what became of the requests."""
    async with Scheduler(model, **options) as scheduler:
        check_after_every_event(scheduler)
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


def test_activations_come_and_go_under_load(tmp_path: Path) -> None:
    """Up and down again: every request is answered rightly, and the metrics show what is there."""
    model = host(tmp_path, devices=2, load_time_s=0.2)
    changes = [{"num_activations": count} for count in (4, 1, 2)]
    seen, requests = run_virtual(_change_under_load, model, changes, {"num_activations": 2})

    assert seen == [{0: ("ready", count), 1: ("ready", count)} for count in (4, 1, 2)]
    assert requests["failed"] == requests["expired"] == requests["rejected"] == 0


def test_devices_come_and_go_under_load(tmp_path: Path) -> None:
    """What a removed device has done still counts, and it may come back."""
    model = host(tmp_path, devices=3, load_time_s=0.2)
    changes: list[dict[str, Any]] = [{"devices": [1, 2]}, {"devices": "all"}]
    seen, requests = run_virtual(_change_under_load, model, changes, {"devices": [0]})

    assert seen[0] == {0: ("removed", 0), 1: ("ready", 1), 2: ("ready", 1)}
    assert seen[1] == dict.fromkeys(range(3), ("ready", 1))
    assert requests["failed"] == requests["expired"] == 0


def test_all_at_once_and_set_size(tmp_path: Path) -> None:
    """One call may change everything; `config` shows what is now."""

    async def main() -> None:
        async with Scheduler(host(tmp_path, devices=3), devices=2, set_size=1) as scheduler:
            check_after_every_event(scheduler)
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
    """Who is answered follows the weights of the time."""

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
        ({"backend": "cpu"}, r"backend: cannot be changed while it runs.*set_size"),
        ({"aic_num_cores": 2}, r"aic_num_cores: cannot be changed"),
        ({"num_activation": 0}, r"num_activations: "),
        ({"devices": []}, r"devices: "),
        ({"devices": [0, 0]}, r"devices: a device id comes twice"),
        ({"devices": [7]}, r"devices: \[7\] not on this host"),
        ({"quue": {}}, r"quue: cannot .*did you mean queue"),
        ({"queue": {"max_sample": 3}}, r"queue.max_sample: unknown key"),
        ({"num_activations": 2, "retry": {"max_attempts": 0}}, r"retry.max_attempts: "),
        ({"num_activations": 99}, r"num_activations: 99 of 1 cores .* do not fit"),
    ],
)
def test_a_bad_change_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    """The error names the key, and everything is as it was."""

    async def main() -> None:
        async with Scheduler(host(tmp_path, devices=2)) as scheduler:
            before, states = scheduler.config, _states(scheduler)
            with pytest.raises(ConfigError, match=message):
                await scheduler.update_backend_options(**options)
            assert scheduler.config is before
            assert _states(scheduler) == states
            await scheduler.run(rows(3))

    run_virtual(main)


def test_what_cannot_be_loaded_everywhere_is_loaded_nowhere(tmp_path: Path) -> None:
    """A device that is lost while others grow ends the change; what they had added goes again."""
    faults = [{"kind": "lost", "device": 1, "at_s": 0.05, "for_s": 1.0}]
    model = host(tmp_path, devices=3, load_time_s=0.1, faults=faults)

    async def main() -> None:
        async with Scheduler(model, devices=[0, 1], num_activations=1) as scheduler:
            check_after_every_event(scheduler)
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


def test_a_device_in_quarantine_comes_back_with_what_is_wanted_now(tmp_path: Path) -> None:
    """The change does not wait for it: its reload loads the new number."""
    faults = [{"kind": "lost", "device": 1, "at_s": 0.05, "for_s": 1.0}]
    model = host(tmp_path, devices=2, faults=faults)

    async def main() -> None:
        async with Scheduler(model, num_activations=3) as scheduler:
            check_after_every_event(scheduler)
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


def test_the_last_devices_that_work_do_not_go(tmp_path: Path) -> None:
    """While all others are in quarantine a device is not removed; it serves on."""
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


def test_a_device_that_hangs_is_removed_all_the_same(tmp_path: Path) -> None:
    """Its stuck inference is tried elsewhere, it is closed, and the others do not wait for it."""
    faults = [{"kind": "hang", "device": 1, "at_s": 0.05}]
    model = host(tmp_path, devices=3, faults=faults)

    async def main() -> None:
        async with Scheduler(model, health={"dispatch_timeout_s": 2.0}) as scheduler:
            check_after_every_event(scheduler)
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


def test_an_activation_that_hangs_goes_with_its_device_s_reload(tmp_path: Path) -> None:
    """The scale-down ends as the device is reloaded with fewer activations."""
    faults = [{"kind": "hang", "device": 1, "at_s": 0.05, "for_s": 3.0}]
    model = host(tmp_path, devices=2, faults=faults)

    async def main() -> None:
        options: dict[str, Any] = {"health": {"dispatch_timeout_s": 1.0}}
        async with Scheduler(model, num_activations=2, **options) as scheduler:
            check_after_every_event(scheduler)
            load = [scheduler.submit(rows(8)) for _ in range(60)]
            await asyncio.sleep(0.06)
            await scheduler.update_backend_options(num_activations=1)
            assert scheduler.config.num_activations == 1
            await asyncio.sleep(10.0)
            assert {its[1] for its in _states(scheduler).values()} == {1}
            await asyncio.gather(*load)

    run_virtual(main)


def test_changes_do_not_overlap(tmp_path: Path) -> None:
    """A second one begins when the first has ended, and goes from what that left."""
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


def test_who_no_longer_waits_leaves_no_change_half_done(tmp_path: Path) -> None:
    """The change goes on; a close ends it, and whoever waits for it is told."""
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
    """Decisions on live changes are in the log, and come out the same."""
    model, log = host(tmp_path, devices=3, load_time_s=0.1), tmp_path / "log"
    changes: list[dict[str, Any]] = [
        {"num_activations": 3, "set_size": 3},
        {"devices": [1], "num_activations": 1, "retry": {"max_attempts": 4}},
        {"batching": {"max_queue_delay_s": float("inf")}, "tenants": {"a": {"share": 0.5}}},
        {"batching": {"max_queue_delay_s": 0.0}, "devices": 2},
    ]
    run_virtual(_change_under_load, model, changes, {"devices": 2, "event_log": str(log)})
    result = replay(log)

    assert result.difference is None
    assert result.requests > 100
    kinds = ("activations_added", "activations_retired", "device_retired", "policy_changed")
    text = log.read_text()
    for kind in (*kinds, "set_size_changed", "unload", "close"):
        assert f'"event":"{kind}"' in text


def test_a_change_does_not_outlive_a_scheduler_that_breaks(tmp_path: Path) -> None:
    """Who waits for it is told that it was our fault, and so is who tries again."""
    model = host(tmp_path, devices=2)

    async def main() -> None:
        async with Scheduler(model) as scheduler:
            load = [scheduler.submit(rows(8)) for _ in range(4)]
            await asyncio.sleep(0.005)
            change = asyncio.ensure_future(scheduler.update_backend_options(devices=[0]))
            await asyncio.sleep(0.001)
            assert scheduler._shell is not None
            scheduler._shell.post(DeviceRetired(7))
            with pytest.raises(InternalError, match="broke one of its rules"):
                await change
            with pytest.raises(InternalError):
                await scheduler.update_backend_options(devices=[0])
            await asyncio.gather(*load, return_exceptions=True)

    run_virtual(main)
