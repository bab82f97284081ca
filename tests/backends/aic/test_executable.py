"""Programs on the stand-in's devices: activations, devices that fail, loading and closing."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from qaic_sched.backends.aic import executable as aic_executable
from qaic_sched.errors import ConfigError, DeviceError, SchedulerClosedError
from tests.backends.aic.aic_cards import backend, expected, on_card, rows, start, until

if TYPE_CHECKING:
    from qaic_sched.backends.aic.executable import AicExecutable


def test_each_activation_is_a_separate_program(qpc: str, cards: Any) -> None:
    """Each activation takes cores, runs in parallel with the others, and is released on close."""

    async def run(executable: AicExecutable) -> None:
        assert cards[0].cores_free == 16 - 3
        cards[0].hang(for_s=0.02)
        waiting = [start(executable, rows(seed=index), index) for index in range(3)]
        for index, outputs in enumerate(await asyncio.gather(*waiting)):
            np.testing.assert_array_equal(outputs["mean"], expected(rows(seed=index)))

    on_card(qpc, run, num_activations=3)
    gc.collect()
    assert cards[0].cores_free == 16


def test_activations_come_and_go_while_others_run(qpc: str, cards: Any) -> None:
    """Activations load while others run; unloading one frees its cores and its thread."""

    async def run(executable: AicExecutable) -> None:
        cards[0].hang(for_s=0.1)
        running = start(executable, rows(seed=1))
        assert await executable.load_more(2, 3) == [1, 2]
        assert not running.done()
        assert executable.room == {0: 2, 1: 3, 2: 3}
        assert cards[0].cores_free == 16 - 3
        outputs = await asyncio.gather(*(start(executable, rows(seed=2), 2) for _ in range(3)))
        for each in outputs:
            np.testing.assert_array_equal(each["mean"], expected(rows(seed=2)))
        await running
        del outputs
        await executable.unload([0, 2])
        gc.collect()
        assert executable.room == {1: 3}
        assert cards[0].cores_free == 16 - 1
        np.testing.assert_array_equal(
            (await start(executable, rows(seed=3), 1))["mean"], expected(rows(seed=3))
        )
        assert await executable.load_more(1, 2) == [0]

    on_card(qpc, run)
    gc.collect()
    assert cards[0].cores_free == 16


def test_more_activations_than_fit_are_refused(qpc: str, cards: Any) -> None:
    """Cores and channels in use count, and a refused load leaves loaded activations alone."""

    async def run(executable: AicExecutable) -> None:
        with pytest.raises(ConfigError, match=r"13 of 1 cores .* do not fit .*12 would fit"):
            await executable.load_more(13, 2)
        cards[0].answer_next("InferenceSet", "QS_NOMEM")
        with pytest.raises(ConfigError, match="memory ran out"):
            await executable.load_more(1, 2)
        assert executable.num_activations == 4
        np.testing.assert_array_equal((await start(executable, rows()))["mean"], expected(rows()))
        cards[0].lose()
        assert (await start(executable, rows())).kind == "lost"
        with pytest.raises(DeviceError) as lost:
            await executable.load_more(1, 2)
        assert lost.value.kind == "lost"
        await executable.aclose()

    on_card(qpc, run, num_activations=4)


def test_threads_are_one_per_activation_and_one_more(qpc: str) -> None:
    """A device has num_activations + 1 threads, all named and all daemons."""

    async def run(executable: AicExecutable) -> None:
        threads = [each for each in threading.enumerate() if each.name.startswith("qaic-aic-0")]
        assert sorted(each.name for each in threads) == [
            "qaic-aic-0",
            "qaic-aic-0-0",
            "qaic-aic-0-1",
        ]
        assert all(each.daemon for each in threads)

    on_card(qpc, run, num_activations=2)


def test_submit_never_blocks(qpc: str, cards: Any) -> None:
    """A runtime that blocks in `submit`, as during a restart, does not block the caller."""

    async def run(executable: AicExecutable) -> None:
        cards[0].submits_may_go_on.clear()
        before = time.monotonic()
        inference = start(executable, rows())
        assert time.monotonic() - before < 0.5
        await asyncio.sleep(0)
        assert not inference.done()
        cards[0].submits_may_go_on.set()
        assert "mean" in await inference

    on_card(qpc, run)


def test_a_callback_that_raises_is_logged(qpc: str, caplog: pytest.LogCaptureFixture) -> None:
    """An exception of `on_completed` is logged, and the threads of the device go on."""

    async def run(executable: AicExecutable) -> None:
        executable.submit(0, rows(), lambda result, completed_at: 1 / 0)  # type: ignore[arg-type]
        assert "mean" in await start(executable, rows())

    on_card(qpc, run)
    assert "the callback of an inference failed" in caplog.text


@pytest.mark.parametrize(("fault", "kind"), [("lose", "lost"), ("restart", "restarted")])
def test_a_broken_device_fails_everything_it_holds(
    qpc: str, cards: Any, fault: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Inferences in flight on every activation, and later ones, fail with the same error."""

    async def run(executable: AicExecutable) -> None:
        cards[0].hang()
        inferences = [start(executable, rows(), index % 2) for index in range(4)]
        until(lambda: not any(each._free for each in executable._activations.values()))
        getattr(cards[0], fault)()
        errors = await asyncio.gather(*inferences)
        assert {(error.kind, error.device_id) for error in errors} == {(kind, 0)}
        later = await start(executable, rows())
        assert later.kind == kind

    before = time.monotonic()
    on_card(qpc, run, num_activations=2)
    assert time.monotonic() - before < 2
    assert len([each for each in caplog.records if each.levelno == logging.WARNING]) == 1


def test_a_submit_that_meets_a_restart_fails_the_program(qpc: str, cards: Any) -> None:
    """A fatal status of `submit` fails the queued inferences too."""

    async def run(executable: AicExecutable) -> None:
        cards[0].submits_may_go_on.clear()
        cards[0].answer_next("submit", "QS_DEV_ERROR")
        inferences = [start(executable, rows()) for _ in range(3)]
        cards[0].submits_may_go_on.set()
        errors = await asyncio.gather(*inferences)
        assert [error.kind for error in errors] == ["restarted"] * 3

    on_card(qpc, run, set_size=3)


def test_a_program_can_be_loaded_again_after_a_restart(qpc: str, cards: Any) -> None:
    """A restart ends the program, but not the device."""

    async def fails(executable: AicExecutable) -> None:
        cards[0].restart()
        assert (await start(executable, rows())).kind == "restarted"

    async def works(executable: AicExecutable) -> None:
        assert "mean" in await start(executable, rows())

    on_card(qpc, fails)
    on_card(qpc, works)
    assert cards[0].num_run == 1


def test_a_load_that_the_device_refuses(qpc: str, cards: Any) -> None:
    """A failed load keeps its cause and releases what was loaded so far."""
    cards[0].answer_next("InferenceSet", "QS_SUCCESS", "QS_DEV_ERROR")
    with pytest.raises(DeviceError, match=r"was not loaded.*QS_DEV_ERROR") as caught:
        asyncio.run(backend(qpc).load(0, 2, 2))
    assert caught.value.kind == "restarted"
    assert "Failed to load program" in str(caught.value.__cause__)
    del caught
    gc.collect()
    until(lambda: cards[0].cores_free == 16)


def test_a_load_without_handles(qpc: str, cards: Any) -> None:
    """A set that cannot provide its handles fails the load."""
    cards[0].answer_next("getAvailable", "QS_SUCCESS", "QS_NOMEM")
    with pytest.raises(ConfigError, match=r"memory ran out \(QS_NOMEM\): use fewer activations"):
        asyncio.run(backend(qpc).load(0, 1, 2))


def test_closing_waits_for_what_the_device_holds(qpc: str, cards: Any) -> None:
    """Closing completes submitted inferences first, and refuses new ones."""
    inferences: list[Any] = []

    async def run(executable: AicExecutable) -> None:
        cards[0].hang(for_s=0.03)
        inferences.extend(start(executable, rows()) for _ in range(2))
        await executable.aclose()
        await asyncio.sleep(0)
        assert all("mean" in each.result() for each in inferences)
        with pytest.raises(SchedulerClosedError, match="aic device 0 was closed"):
            start(executable, rows())

    on_card(qpc, run)


def test_closing_a_device_that_hangs(
    qpc: str, cards: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Closing is bounded: an inference that hangs fails once, and its late result is dropped."""
    monkeypatch.setattr(aic_executable, "CLOSE_LIMIT_S", 0.03)

    async def run(executable: AicExecutable) -> None:
        cards[0].hang()
        inference = start(executable, rows())
        before = time.monotonic()
        await executable.aclose()
        assert time.monotonic() - before < 1
        error = await inference
        assert error.kind == "stuck"
        assert "was closed with this inference in flight" in str(error)
        cards[0].hang(for_s=0)
        until(lambda: not any(each.is_alive() for each in executable._activations.values()))

    on_card(qpc, run)
    assert "still busy when it was closed" in caplog.text
    assert cards[0].num_run == 1
