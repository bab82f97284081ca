"""The pool: all devices open or none, and answers reach the loop together."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qaic_sched.backends.aic import backend as aic
from qaic_sched.backends.aic.devices import QUERY_LIMIT_S
from qaic_sched.backends.base import Backend, DeviceInfo, Executable, OnCompleted, unused_indexes
from qaic_sched.backends.cpu import CpuBackend
from qaic_sched.config.keys import ModelOptions
from qaic_sched.core.model import Batch, Part, Request
from qaic_sched.errors import DeviceError, DeviceErrorKind
from qaic_sched.program import Program, TensorSpec
from qaic_sched.scheduler import pool as pool_module
from qaic_sched.scheduler.pool import Pool
from qaic_sched.testing import run_virtual
from tests.core.harness import make_activation
from tests.models import linear_model, unbatched_model

PROGRAM = Program.of(
    [TensorSpec("x", (4, 2), np.dtype("float32"))], [TensorSpec("y", (4,), np.dtype("float32"))]
)


class Echo(Executable):
    """Keeps submitted inferences until the test answers them."""

    def __init__(self, device_id: int, num_activations: int) -> None:
        self.device_id = device_id
        self.program = PROGRAM
        self.room = dict.fromkeys(range(num_activations), math.inf)
        self.submitted: list[tuple[int, dict[str, np.ndarray], OnCompleted]] = []
        self.is_closed = False

    def submit(self, activation: int, inputs: Mapping[str, Any], on_completed: OnCompleted) -> None:
        self.submitted.append((activation, dict(inputs), on_completed))

    async def load_more(self, count: int, set_size: int) -> Sequence[int]:
        new = unused_indexes(self.room, count)
        self.room.update(dict.fromkeys(new, math.inf))
        return new

    async def unload(self, activations: Sequence[int]) -> None:
        for index in activations:
            del self.room[index]

    async def aclose(self) -> None:
        self.is_closed = True


class EchoBackend(Backend):
    """Loads `Echo` on devices 0 to 3; device 3 takes `load_s` seconds, and `broken` fails."""

    kind = "echo"

    def __init__(self, *, load_s: float = 0.0, broken: int | None = None) -> None:
        super().__init__("model", ModelOptions())
        self.load_s = load_s
        self.broken = broken
        self.loaded: list[Echo] = []

    async def find(self) -> list[DeviceInfo]:
        return []

    async def describe(self) -> Program:
        return PROGRAM

    async def load(self, device_id: int, num_activations: int, set_size: int) -> Executable:
        await asyncio.sleep(self.load_s if device_id == 3 else 0.001)
        if device_id == self.broken:
            raise DeviceError(f"device {device_id} is broken", device_id)
        self.loaded.append(Echo(device_id, num_activations))
        return self.loaded[-1]


def batch_of(*samples: int, size: int = 4) -> Batch:
    """Return a batch on activation 0 of device 0, with one request per number of samples."""
    parts = [Part(Request(each, count, 0.0), 0, count) for each, count in enumerate(samples)]
    return Batch(0, make_activation(0, 0), size, sum(samples), parts, 0.0)


def tensors(count: int, fill: float = 1.0) -> dict[str, Any]:
    """Return inputs of `count` rows."""
    return {"x": np.full((count, 2), fill, np.float32)}


def test_opens_all_devices_at_once_and_keeps_the_order_asked_for() -> None:
    """Loading takes as long as the slowest device, not the sum."""

    async def main() -> None:
        pool = Pool(EchoBackend(load_s=0.5), PROGRAM)
        await pool.open([3, 0, 2], 2, 1)
        assert asyncio.get_running_loop().time() == 0.5
        assert list(pool.executables) == [3, 0, 2]
        await pool.aclose()
        assert all(each.is_closed for each in pool.executables.values())  # type: ignore[attr-defined]

    run_virtual(main)


def test_a_device_that_fails_to_load_closes_the_others() -> None:
    """The error is raised unchanged, and nothing stays loaded."""

    async def main() -> None:
        backend = EchoBackend(broken=1)
        with pytest.raises(DeviceError, match="device 1 is broken"):
            await Pool(backend, PROGRAM).open([0, 1, 2], 1, 1)
        assert len(backend.loaded) == 2
        assert all(each.is_closed for each in backend.loaded)

    run_virtual(main)


def test_a_load_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the limit the error names the device, and the others are closed."""
    monkeypatch.setattr(pool_module, "LOAD_LIMIT_S", 60.0)

    async def main() -> None:
        backend = EchoBackend(load_s=1e6)
        with pytest.raises(DeviceError, match="device 3: the program was not loaded within 60 s"):
            await Pool(backend, PROGRAM).open([0, 3], 1, 1)
        assert asyncio.get_running_loop().time() == 60.0
        assert backend.loaded[0].is_closed

    run_virtual(main)


def test_the_limit_leaves_backends_time_to_give_up_first() -> None:
    """The steps of a load on a card have limits of their own, whose sum is less than the pool's."""
    steps = 2 * aic.CALL_LIMIT_S + QUERY_LIMIT_S + aic.LOAD_LIMIT_S

    assert steps < pool_module.LOAD_LIMIT_S


def test_opening_that_is_cancelled_closes_what_was_loaded() -> None:
    """If opening is cancelled while a slow device loads, the loaded devices are closed."""

    async def main() -> None:
        backend = EchoBackend(load_s=10.0)
        opening = asyncio.ensure_future(Pool(backend, PROGRAM).open([0, 3], 1, 1))
        await asyncio.sleep(1.0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert backend.loaded[0].is_closed

    run_virtual(main)


def submit(batch: Batch, *sources: dict[str, Any]) -> dict[str, np.ndarray]:
    """Open a pool on device 0, submit a batch, and return the inputs that the device got."""

    async def main() -> dict[str, np.ndarray]:
        backend = EchoBackend()
        pool = Pool(backend, PROGRAM)
        await pool.open([0], 1, 1)
        pool.submit(batch, sources)
        return backend.loaded[0].submitted[0][1]

    return run_virtual(main)


def test_a_request_that_fills_a_batch_is_not_copied() -> None:
    """A request of a full batch, and a full batch of a large request, are sent without a copy."""
    source = tensors(4)
    assert submit(batch_of(4), source)["x"] is source["x"]

    large = {"x": np.arange(24, dtype=np.float32).reshape(12, 2)}
    batch = Batch(0, make_activation(0, 0), 4, 4, [Part(Request(0, 12, 0.0), 4, 4)], 0.0)
    got = submit(batch, large)["x"]
    assert np.shares_memory(got, large["x"])
    np.testing.assert_array_equal(got, large["x"][4:8])


def test_others_are_gathered_and_padded_with_their_last_row() -> None:
    """Rows of several requests follow each other; padding has values that a caller sent."""
    got = submit(batch_of(1, 2), tensors(1, 5.0), tensors(2, 6.0))["x"]
    np.testing.assert_array_equal(got[:, 0], [5.0, 6.0, 6.0, 6.0])


def test_buffers_are_used_again_only_after_the_answer() -> None:
    """Two batches in flight never share a buffer; after an answer its buffer is reused."""

    async def main() -> None:
        backend = EchoBackend()
        pool = Pool(backend, PROGRAM)
        pool.deliver_to(pool.take_completed)
        await pool.open([0], 1, 1)
        for _ in range(2):
            pool.submit(batch_of(1), [tensors(1)])
        first, second = (each[1]["x"] for each in backend.loaded[0].submitted)
        assert not np.shares_memory(first, second)

        backend.loaded[0].submitted[0][2]({}, 0.0)
        await asyncio.sleep(0.001)
        pool.submit(batch_of(1), [tensors(1)])
        assert np.shares_memory(backend.loaded[0].submitted[2][1]["x"], first)

    run_virtual(main)


def test_flights_taken_early_are_not_delivered_again() -> None:
    """If flights are taken between the answer and the wake-up, the wake-up delivers nothing."""

    async def main() -> None:
        backend = EchoBackend()
        pool = Pool(backend, PROGRAM)
        pool.deliver_to(lambda: pytest.fail("there is nothing left to take"))
        await pool.open([0], 1, 1)
        batch = batch_of(4)
        pool.submit(batch, [tensors(4)])
        backend.loaded[0].submitted[0][2]({}, 0.0)

        assert [each.batch for each in pool.take_completed()] == [batch]
        await asyncio.sleep(0.001)

    run_virtual(main)


# Reloading


Answer = Callable[[OnCompleted], None]


def reload(
    answer: Answer, limit_s: float | None = None, fails_always: DeviceError | None = None
) -> Echo:
    """Reload device 0, have `answer` answer its first inference, and return the executable.

    With `fails_always`, a second inference fails with it.
    """

    async def main() -> Echo:
        backend = EchoBackend()
        pool = Pool(backend, PROGRAM)
        pool.deliver_to(lambda: pytest.fail("a probe belongs to no batch"))
        await pool.open([0], 1, 1)
        reloading = asyncio.ensure_future(pool.reload(0, limit_s))
        await asyncio.sleep(0.01)
        before, again = backend.loaded
        assert before.is_closed
        answer(again.submitted[0][2])
        await asyncio.sleep(0.01)
        if fails_always is not None:
            again.submitted[1][2](fails_always, 0.0)
        try:
            assert await reloading is again
            assert pool.executables[0] is again
        finally:
            for _, _, done in again.submitted:
                done({}, 0.0)  # a late answer, and a second one, are dropped
            await asyncio.sleep(0.01)
        return again

    return run_virtual(main)


def test_a_reloaded_device_is_probed_with_values_that_suit_most_programs() -> None:
    """The probe has the smallest compiled batch size; no request is used as a probe."""
    executable = reload(lambda done: done({}, 0.0))
    ((activation, inputs, _),) = executable.submitted

    assert activation == 0
    np.testing.assert_array_equal(inputs["x"], np.ones((4, 2), np.float32))


def test_a_reloaded_device_is_probed_with_inputs_that_have_worked() -> None:
    """They are copies of one row, also if it came with a failure first; later ones change nothing.

    The caller may change its array meanwhile.
    """

    async def main() -> None:
        backend = EchoBackend()
        pool = Pool(backend, PROGRAM)
        pool.deliver_to(pool.take_completed)
        await pool.open([0], 1, 1)
        for fill, ends_well in ((5.0, False), (6.0, True), (7.0, True)):
            inputs = tensors(4, fill)
            pool.submit(batch_of(4), [inputs])
            inputs["x"][:] = 0
            answer: Any = {} if ends_well else DeviceError("bad values", 0, kind="input")
            backend.loaded[0].submitted[-1][2](answer, 0.0)
            await asyncio.sleep(0.001)
        reloading = asyncio.ensure_future(pool.reload(0))
        await asyncio.sleep(0.01)
        _, probe, done = backend.loaded[1].submitted[0]
        done({}, 0.0)
        await reloading

        np.testing.assert_array_equal(probe["x"], np.full((4, 2), 6.0, np.float32))

    run_virtual(main)


@pytest.mark.parametrize("kind", ["input", "inference"])
def test_a_probe_of_guesses_that_fails_proves_nothing(kind: DeviceErrorKind) -> None:
    """Nobody knows which values this program takes: the device answers, and is in use again."""
    error = DeviceError("out of range", 0, kind=kind)
    executable = reload(lambda done: done(error, 0.0), fails_always=error)

    assert len(executable.submitted) == 2


def test_a_device_that_fails_its_probe_was_not_reloaded() -> None:
    """The device's error is the cause of the one that is raised."""
    error = DeviceError("it is lost again", 0, kind="lost")
    with pytest.raises(DeviceError, match="loaded and failed an inference: it is lost") as caught:
        reload(lambda done: done(error, 0.0))

    assert (caught.value.kind, caught.value.__cause__) == ("lost", error)


@pytest.mark.parametrize(("limit_s", "waited_s"), [(None, 10), (0.5, 10), (90.0, 90)])
def test_a_device_that_does_not_answer_its_probe_was_not_reloaded(
    limit_s: float | None, waited_s: float
) -> None:
    """A probe has 10 s, or the longer time of an inference; a late answer is dropped."""
    with pytest.raises(DeviceError, match=f"did not answer within {waited_s:g} s") as caught:
        reload(lambda done: None, limit_s=limit_s)

    assert (caught.value.kind, caught.value.device_id) == ("stuck", 0)


@pytest.mark.parametrize("is_batched", [True, False])
def test_a_cpu_device_is_probed_like_any_other(tmp_path: Path, is_batched: bool) -> None:
    """Probes work on the CPU, with a batch axis and without one."""
    write, symbols = (linear_model, {"N": 4}) if is_batched else (unbatched_model, {})
    path = write(tmp_path / "model.onnx")

    async def main() -> None:
        backend = CpuBackend(path, ModelOptions(onnx_define_symbol=symbols))
        [device_id, *_] = await backend.select("all")
        pool = Pool(backend, await backend.describe())
        await pool.open([device_id], 1, 1)
        try:
            assert await pool.reload(device_id) is pool.executables[device_id]
        finally:
            await pool.aclose()

    asyncio.run(main())


@pytest.mark.slow
def test_answers_of_many_threads_share_wake_ups() -> None:
    """Every answer is delivered once, and answers that come together in one call."""
    bunches: list[int] = []

    async def main() -> None:
        completed = asyncio.Event()

        def on_completed() -> None:
            bunches.append(len(pool.take_completed()))
            if sum(bunches) == 400:
                completed.set()

        backend = EchoBackend()
        pool = Pool(backend, PROGRAM)
        pool.deliver_to(on_completed)
        await pool.open([0], 1, 1)
        for _ in range(400):
            pool.submit(batch_of(4), [tensors(4)])
        answers = [done for _, _, done in backend.loaded[0].submitted]

        threads = [
            threading.Thread(target=_answer, args=(answers[start::4],)) for start in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        await asyncio.wait_for(completed.wait(), 10)
        await pool.aclose()
        late = answers[0]
        await asyncio.get_running_loop().run_in_executor(None, late, {}, 0.0)

    asyncio.run(main())
    assert sum(bunches) == 400
    assert len(bunches) == 1, "the loop was woken once, as it was busy joining"


def _answer(answers: list[Callable[[Any, float], None]]) -> None:
    for answer in answers:
        answer({}, 0.0)
