"""Tests of programs on the stand-in's cards: answers, faults, and giving the device back."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from qaic_sched.backends.aic import executable as aic_executable
from qaic_sched.errors import ConfigError, DeviceError, SchedulerClosedError
from tests.backends.aic.aic_cards import backend, expected, on_card, rows, start, until
from tests.standin import QAicApi_pb2 as api
from tests.standin.qpc import binding, write_qpc

if TYPE_CHECKING:
    from pathlib import Path

    from qaic_sched.backends.aic.executable import AicExecutable


def answers_of(path: str, *batches: dict[str, Any], **options: Any) -> list[Any]:
    """What these inferences end with, all started at once on activation 0."""
    answers: list[Any] = []

    async def run(executable: AicExecutable) -> None:
        answers.extend(await asyncio.gather(*(start(executable, each) for each in batches)))

    on_card(path, run, set_size=max(2, len(batches)), **options)
    return answers


# Answers


def test_an_inference_is_answered_with_its_outputs(qpc: str) -> None:
    """Outputs are those of the inputs, C-contiguous, writable and of their declared type."""
    inputs = rows()
    [outputs] = answers_of(qpc, inputs)
    np.testing.assert_array_equal(outputs["mean"], expected(inputs))
    flags = outputs["mean"].flags
    assert flags.c_contiguous
    assert flags.writeable
    assert outputs["mean"].dtype == np.float32


def test_outputs_are_never_overwritten(qpc: str) -> None:
    """Buffers are used again and again, yet what was handed out stays as it was."""
    batches = [rows(seed=seed) for seed in range(20)]
    kept: list[Any] = []

    async def run(executable: AicExecutable) -> None:
        for first, second in zip(batches[::2], batches[1::2], strict=True):
            both = [start(executable, first), start(executable, second)]
            kept.extend(await asyncio.gather(*both))

    on_card(qpc, run)
    for inputs, outputs in zip(batches, kept, strict=True):
        np.testing.assert_array_equal(outputs["mean"], expected(inputs))


def test_each_activation_is_a_program_of_its_own(qpc: str, cards: Any) -> None:
    """Activations take cores each, run side by side, and are given back at the end."""

    async def run(executable: AicExecutable) -> None:
        assert cards[0].cores_free == 16 - 3
        cards[0].hang(for_s=0.02)
        waiting = [start(executable, rows(seed=index), index) for index in range(3)]
        for index, outputs in enumerate(await asyncio.gather(*waiting)):
            np.testing.assert_array_equal(outputs["mean"], expected(rows(seed=index)))

    on_card(qpc, run, num_activations=3)
    gc.collect()
    assert cards[0].cores_free == 16


def test_activations_come_and_go_beside_those_that_work(qpc: str, cards: Any) -> None:
    """More are loaded while others run; what is given back frees its cores and its thread."""

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


def test_more_than_fit_beside_the_others_are_refused(qpc: str, cards: Any) -> None:
    """Cores and channels that are in use count; what the device refuses leaves the rest alone."""

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
    """Threads are bounded, named and daemons."""

    async def run(executable: AicExecutable) -> None:
        threads = [each for each in threading.enumerate() if each.name.startswith("qaic-aic-0")]
        assert sorted(each.name for each in threads) == [
            "qaic-aic-0",
            "qaic-aic-0-0",
            "qaic-aic-0-1",
        ]
        assert all(each.daemon for each in threads)

    on_card(qpc, run, num_activations=2)


def test_every_specialization_can_run(tmp_path: Path, cards: Any) -> None:
    """A QPC with several batch sizes runs each of them, with outputs of as many rows."""
    path = write_qpc(tmp_path, batch_sizes=(1, 8, 4))
    batches = [rows(count, seed=count) for count in (4, 8, 1, 4)]
    for inputs, outputs in zip(batches, answers_of(path, *batches), strict=True):
        np.testing.assert_array_equal(outputs["mean"], expected(inputs))


def test_cycle_counts_are_skipped(tmp_path: Path, cards: Any) -> None:
    """The runtime's own statistics have a buffer but are no output of the program."""
    bindings = [
        binding("aiccyclecounts", api.BUFFER_IO_TYPE_OUTPUT, [8, 8], api.INT8_TYPE),
        binding("x", api.BUFFER_IO_TYPE_INPUT, [8, 4]),
        binding("mean", api.BUFFER_IO_TYPE_OUTPUT, [8, 2]),
    ]
    path = write_qpc(tmp_path, bindings=bindings, batch_sizes=(4, 8))
    [outputs] = answers_of(path, rows(4))
    assert list(outputs) == ["mean"]
    np.testing.assert_array_equal(outputs["mean"], expected(rows(4)))


def test_nothing_of_an_inference_is_kept(qpc: str) -> None:
    """Once answered, neither inputs nor outputs are referenced by the executable."""
    references: list[weakref.ref[Any]] = []

    async def run(executable: AicExecutable) -> None:
        inputs = rows()
        references.append(weakref.ref(inputs["x"]))
        outputs = await start(executable, inputs)
        references.append(weakref.ref(outputs["mean"]))
        del inputs, outputs
        await start(executable, rows())
        gc.collect()
        assert [reference() for reference in references] == [None, None]

    on_card(qpc, run)


def test_submit_never_blocks(qpc: str, cards: Any) -> None:
    """A runtime that holds `submit` back, as in a restart, holds no caller back."""

    async def run(executable: AicExecutable) -> None:
        cards[0].submits_may_go_on.clear()
        before = time.monotonic()
        answer = start(executable, rows())
        assert time.monotonic() - before < 0.5
        await asyncio.sleep(0)
        assert not answer.done()
        cards[0].submits_may_go_on.set()
        assert "mean" in await answer

    on_card(qpc, run)


# Inferences that fail


@pytest.mark.parametrize(
    ("call", "answer", "problem"),
    [
        ("setData", "QS_INVAL", r"refused \(QS_INVAL\): compile the model again"),
        ("submit", "QS_BUSY", r"queue stayed full \(QS_BUSY\): use a smaller set_size"),
        ("submit", RuntimeError("gone wrong"), "submitting failed: gone wrong"),
        ("getCompletedId", "QS_ERROR", r"reported an error \(QS_ERROR\)"),
        ("getCompletedId", RuntimeError("gone wrong"), "reading its answer failed: gone wrong"),
        ("getData", "QS_NOMEM", r"memory ran out \(QS_NOMEM\)"),
        ("getData", RuntimeError("gone wrong"), "reading its answer failed: gone wrong"),
    ],
)
def test_a_failed_inference_fails_alone(
    qpc: str, cards: Any, call: str, answer: Any, problem: str
) -> None:
    """A failure of one inference names device and status, and its slot serves the next one."""

    async def run(executable: AicExecutable) -> None:
        cards[0].answer_next(call, answer)
        error = await start(executable, rows())
        assert isinstance(error, DeviceError)
        assert (error.device_id, error.kind) == (0, "inference")
        assert error.args[0].startswith("aic device 0, activation 0")
        with pytest.raises(DeviceError, match=problem):
            raise error
        for _ in range(3):
            assert "mean" in await start(executable, rows())

    on_card(qpc, run, set_size=1)


def test_more_than_set_size_is_refused(qpc: str, cards: Any) -> None:
    """An inference for which no handle is left is answered with an error at once."""

    async def run(executable: AicExecutable) -> None:
        cards[0].hang(for_s=0.05)
        first, second = start(executable, rows()), start(executable, rows())
        error = await second
        assert "more than set_size inferences" in str(error)
        assert not first.done()
        assert "mean" in await first

    on_card(qpc, run, set_size=1)


def test_a_stuck_inference_is_told_apart(
    qpc: str, cards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the driver gives up after its wait is stuck, and the next inference can run."""
    monkeypatch.setattr("qaic_sched.backends.aic.status.STUCK_AFTER_S", 0.02)

    async def run(executable: AicExecutable) -> None:
        cards[0].hang(for_s=0.05, gives_up_after_s=0.03)
        error = await start(executable, rows())
        assert (error.kind, error.device_id) == ("stuck", 0)
        assert "mean" in await start(executable, rows())

    on_card(qpc, run)


def test_a_late_answer_is_an_answer(qpc: str, cards: Any) -> None:
    """A device that is slow once delays what is behind it, and loses nothing."""

    async def run(executable: AicExecutable) -> None:
        cards[0].late_s = 0.03
        answers = await asyncio.gather(*(start(executable, rows(seed=seed)) for seed in range(2)))
        for seed, outputs in enumerate(answers):
            np.testing.assert_array_equal(outputs["mean"], expected(rows(seed=seed)))

    on_card(qpc, run)


def test_a_receiver_that_fails_is_logged(qpc: str, caplog: pytest.LogCaptureFixture) -> None:
    """An exception out of `done` costs the device's threads nothing."""

    async def run(executable: AicExecutable) -> None:
        executable.submit(0, rows(), lambda answer, completed_at: 1 / 0)  # type: ignore[arg-type]
        assert "mean" in await start(executable, rows())

    on_card(qpc, run)
    assert "who wanted an answer failed" in caplog.text


# Devices that fail


@pytest.mark.parametrize(("fault", "kind"), [("lose", "lost"), ("restart", "restarted")])
def test_all_that_a_broken_device_holds_is_answered(
    qpc: str, cards: Any, fault: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Everything in flight, on every activation, ends with the same error; so does what follows."""

    async def run(executable: AicExecutable) -> None:
        cards[0].hang()
        flights = [start(executable, rows(), index % 2) for index in range(4)]
        until(lambda: not any(each._free for each in executable._activations.values()))
        getattr(cards[0], fault)()
        errors = await asyncio.gather(*flights)
        assert {(error.kind, error.device_id) for error in errors} == {(kind, 0)}
        later = await start(executable, rows())
        assert later.kind == kind

    before = time.monotonic()
    on_card(qpc, run, num_activations=2)
    assert time.monotonic() - before < 2
    assert len([each for each in caplog.records if each.levelno == logging.WARNING]) == 1


def test_a_submit_that_meets_a_restart_takes_the_program_along(qpc: str, cards: Any) -> None:
    """Statuses of `submit` count like those of waiting; what is queued behind is answered too."""

    async def run(executable: AicExecutable) -> None:
        cards[0].submits_may_go_on.clear()
        cards[0].answer_next("submit", "QS_DEV_ERROR")
        flights = [start(executable, rows()) for _ in range(3)]
        cards[0].submits_may_go_on.set()
        errors = await asyncio.gather(*flights)
        assert [error.kind for error in errors] == ["restarted"] * 3

    on_card(qpc, run, set_size=3)


@pytest.mark.parametrize("call", ["putCompleted", "getAvailable"])
@pytest.mark.parametrize("answer", ["QS_INVAL", RuntimeError("not now")])
def test_a_handle_that_does_not_come_back(qpc: str, cards: Any, call: str, answer: Any) -> None:
    """An answer is passed on even if its slot is gone; then the program must be loaded again."""

    async def run(executable: AicExecutable) -> None:
        cards[0].answer_next(call, answer)
        assert "mean" in await start(executable, rows())
        until(lambda: executable.failure is not None)
        error = await start(executable, rows())
        assert error.kind == "restarted"
        assert f"no handle back ({answer})" in str(error)

    on_card(qpc, run)


def test_a_program_can_be_loaded_again_after_a_restart(qpc: str, cards: Any) -> None:
    """A restart takes the program, not the device."""

    async def fails(executable: AicExecutable) -> None:
        cards[0].restart()
        assert (await start(executable, rows())).kind == "restarted"

    async def works(executable: AicExecutable) -> None:
        assert "mean" in await start(executable, rows())

    on_card(qpc, fails)
    on_card(qpc, works)
    assert cards[0].num_run == 1


# Loading


def test_a_load_that_the_device_refuses(qpc: str, cards: Any) -> None:
    """What fails in the runtime keeps its cause, and gives back what was loaded by then."""
    cards[0].answer_next("InferenceSet", "QS_SUCCESS", "QS_DEV_ERROR")
    with pytest.raises(DeviceError, match=r"was not loaded.*QS_DEV_ERROR") as caught:
        asyncio.run(backend(qpc).load(0, 2, 2))
    assert caught.value.kind == "restarted"
    assert "Failed to load program" in str(caught.value.__cause__)
    del caught
    gc.collect()
    until(lambda: cards[0].cores_free == 16)


def test_a_load_without_handles(qpc: str, cards: Any) -> None:
    """A set that has no handles to give cannot be used."""
    cards[0].answer_next("getAvailable", "QS_SUCCESS", "QS_NOMEM")
    with pytest.raises(ConfigError, match=r"memory ran out \(QS_NOMEM\): use fewer activations"):
        asyncio.run(backend(qpc).load(0, 1, 2))


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_a_load_that_nobody_waits_for_gives_everything_back(
    qpc: str, cards: Any, is_cancelled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load that is cancelled or too slow leaves nothing on the device, once it ends."""
    monkeypatch.setattr("qaic_sched.backends.aic.backend.LOAD_LIMIT_S", 0.02)
    cards[0].loads_may_go_on.clear()

    async def main() -> None:
        loading = asyncio.ensure_future(backend(qpc).load(0, 1, 2))
        if is_cancelled:
            await asyncio.sleep(0.01)
            loading.cancel()
        await loading

    if is_cancelled:
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(main())
    else:
        with pytest.raises(DeviceError, match=r"loading on device 0 has not ended") as caught:
            asyncio.run(main())
        assert caught.value.kind == "stuck"
    cards[0].loads_may_go_on.set()
    until(lambda: cards[0].cores_free == 16)


# Closing


def test_closing_waits_for_what_the_device_holds(qpc: str, cards: Any) -> None:
    """What was submitted is answered before the device is given back; then nothing is taken."""
    answers: list[Any] = []

    async def run(executable: AicExecutable) -> None:
        cards[0].hang(for_s=0.03)
        answers.extend(start(executable, rows()) for _ in range(2))
        await executable.aclose()
        await asyncio.sleep(0)
        assert all("mean" in answer.result() for answer in answers)
        with pytest.raises(SchedulerClosedError, match="aic device 0 was closed"):
            start(executable, rows())

    on_card(qpc, run)


def test_closing_a_device_that_hangs(
    qpc: str, cards: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Closing is bounded; what hangs is answered once, and its late answer reaches nobody."""
    monkeypatch.setattr(aic_executable, "CLOSE_LIMIT_S", 0.03)

    async def run(executable: AicExecutable) -> None:
        cards[0].hang()
        flight = start(executable, rows())
        before = time.monotonic()
        await executable.aclose()
        assert time.monotonic() - before < 1
        error = await flight
        assert error.kind == "stuck"
        assert "was closed with this inference in flight" in str(error)
        cards[0].hang(for_s=0)
        until(lambda: not any(each.is_alive() for each in executable._activations.values()))

    on_card(qpc, run)
    assert "still busy when it was closed" in caplog.text
    assert cards[0].num_run == 1
