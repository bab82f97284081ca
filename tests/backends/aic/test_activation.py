"""Activations on the stand-in's devices: outputs, buffers, and inferences that fail alone."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from qaic_sched.errors import DeviceError
from tests.backends.aic.aic_cards import expected, on_card, rows, start, until
from tests.standin import QAicApi_pb2 as api
from tests.standin.qpc import binding, write_qpc

if TYPE_CHECKING:
    from pathlib import Path

    from qaic_sched.backends.aic.executable import AicExecutable


def results_of(path: str, *batches: dict[str, Any], **options: Any) -> list[Any]:
    """The results of these inferences, all started at once on activation 0."""
    results: list[Any] = []

    async def run(executable: AicExecutable) -> None:
        results.extend(await asyncio.gather(*(start(executable, each) for each in batches)))

    on_card(path, run, set_size=max(2, len(batches)), **options)
    return results


def test_an_inference_completes_with_its_outputs(qpc: str) -> None:
    """Outputs are correct, C-contiguous, writable and of their declared type."""
    inputs = rows()
    [outputs] = results_of(qpc, inputs)
    np.testing.assert_array_equal(outputs["mean"], expected(inputs))
    flags = outputs["mean"].flags
    assert flags.c_contiguous
    assert flags.writeable
    assert outputs["mean"].dtype == np.float32


def test_outputs_are_never_overwritten(qpc: str) -> None:
    """Reusing buffers leaves the outputs of earlier inferences unchanged."""
    batches = [rows(seed=seed) for seed in range(20)]
    kept: list[Any] = []

    async def run(executable: AicExecutable) -> None:
        for first, second in zip(batches[::2], batches[1::2], strict=True):
            both = [start(executable, first), start(executable, second)]
            kept.extend(await asyncio.gather(*both))

    on_card(qpc, run)
    for inputs, outputs in zip(batches, kept, strict=True):
        np.testing.assert_array_equal(outputs["mean"], expected(inputs))


def test_every_specialization_can_run(tmp_path: Path, cards: Any) -> None:
    """A QPC with several batch sizes runs each; outputs have as many rows as inputs."""
    path = write_qpc(tmp_path, batch_sizes=(1, 8, 4))
    batches = [rows(count, seed=count) for count in (4, 8, 1, 4)]
    for inputs, outputs in zip(batches, results_of(path, *batches), strict=True):
        np.testing.assert_array_equal(outputs["mean"], expected(inputs))


def test_cycle_counts_are_skipped(tmp_path: Path, cards: Any) -> None:
    """The runtime's cycle counts have a buffer, but are not an output of the program."""
    bindings = [
        binding("aiccyclecounts", api.BUFFER_IO_TYPE_OUTPUT, [8, 8], api.INT8_TYPE),
        binding("x", api.BUFFER_IO_TYPE_INPUT, [8, 4]),
        binding("mean", api.BUFFER_IO_TYPE_OUTPUT, [8, 2]),
    ]
    path = write_qpc(tmp_path, bindings=bindings, batch_sizes=(4, 8))
    [outputs] = results_of(path, rows(4))
    assert list(outputs) == ["mean"]
    np.testing.assert_array_equal(outputs["mean"], expected(rows(4)))


def test_nothing_of_an_inference_is_kept(qpc: str) -> None:
    """After completion, the executable references neither inputs nor outputs."""
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


@pytest.mark.parametrize(
    ("call", "answer", "problem"),
    [
        ("setData", "QS_INVAL", r"refused inputs or program \(QS_INVAL\): check their values, or"),
        ("submit", "QS_BUSY", r"queue stayed full \(QS_BUSY\): use a smaller set_size"),
        ("submit", RuntimeError("gone wrong"), "submitting failed: gone wrong"),
        ("getCompletedId", "QS_ERROR", r"reported an error \(QS_ERROR\)"),
        ("getCompletedId", RuntimeError("gone wrong"), "reading its outputs failed: gone wrong"),
        ("getData", "QS_NOMEM", r"memory ran out \(QS_NOMEM\)"),
        ("getData", RuntimeError("gone wrong"), "reading its outputs failed: gone wrong"),
    ],
)
def test_a_failed_inference_fails_alone(
    qpc: str, cards: Any, call: str, answer: Any, problem: str
) -> None:
    """A failed inference names the device and the status, and its slot serves the next one."""

    async def run(executable: AicExecutable) -> None:
        cards[0].answer_next(call, answer)
        error = await start(executable, rows())
        assert isinstance(error, DeviceError)
        assert (error.device_id, error.kind) == (
            0,
            "input" if answer == "QS_INVAL" else "inference",
        )
        assert error.args[0].startswith("aic device 0, activation 0")
        with pytest.raises(DeviceError, match=problem):
            raise error
        for _ in range(3):
            assert "mean" in await start(executable, rows())

    on_card(qpc, run, set_size=1)


def test_more_than_set_size_is_refused(qpc: str, cards: Any) -> None:
    """An inference beyond `set_size` fails at once."""

    async def run(executable: AicExecutable) -> None:
        cards[0].hang(for_s=0.05)
        first, second = start(executable, rows()), start(executable, rows())
        error = await second
        assert "more than set_size inferences" in str(error)
        assert not first.done()
        assert "mean" in await first

    on_card(qpc, run, set_size=1)


def test_a_stuck_inference_has_a_kind_of_its_own(
    qpc: str, cards: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An inference that the driver gives up on is `stuck`, and the next inference can run."""
    monkeypatch.setattr("qaic_sched.backends.aic.status.STUCK_AFTER_S", 0.02)

    async def run(executable: AicExecutable) -> None:
        cards[0].hang(gives_up_after_s=0.03)
        error = await start(executable, rows())
        assert (error.kind, error.device_id) == ("stuck", 0)
        cards[0].hang(for_s=0)
        assert "mean" in await start(executable, rows())

    on_card(qpc, run)


def test_a_late_completion_counts(qpc: str, cards: Any) -> None:
    """A device that is slow once delays the inferences behind it and loses none."""

    async def run(executable: AicExecutable) -> None:
        cards[0].late_s = 0.03
        results = await asyncio.gather(*(start(executable, rows(seed=seed)) for seed in range(2)))
        for seed, outputs in enumerate(results):
            np.testing.assert_array_equal(outputs["mean"], expected(rows(seed=seed)))

    on_card(qpc, run)


@pytest.mark.parametrize("call", ["putCompleted", "getAvailable"])
@pytest.mark.parametrize("answer", ["QS_INVAL", RuntimeError("not now")])
def test_a_handle_that_does_not_come_back(qpc: str, cards: Any, call: str, answer: Any) -> None:
    """Losing a handle fails no inference that completed, but then the program must be reloaded."""

    async def run(executable: AicExecutable) -> None:
        cards[0].answer_next(call, answer)
        assert "mean" in await start(executable, rows())
        until(lambda: executable.failure is not None)
        error = await start(executable, rows())
        assert error.kind == "restarted"
        assert f"no handle back ({answer})" in str(error)

    on_card(qpc, run)
