"""Runs requests through a scheduler on the CPU beside onnxruntime alone, and compares them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import anyio
import onnxruntime

from qaic_sched import InputError, Scheduler
from tests.strangers.comparing import assert_near

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["alone", "assert_each_as_alone", "run_together"]

Inputs = Mapping[str, "NDArray[Any]"]

LIMIT_S = 60.0


def open_session(path: str) -> onnxruntime.InferenceSession:
    """The model as onnxruntime runs it, whatever the sizes of its symbols."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def alone(path: str, requests: Sequence[Inputs]) -> list[dict[str, Any] | Exception]:
    """What onnxruntime gives for each request alone, or the error that it raises."""
    session = open_session(path)
    names = [value.name for value in session.get_outputs()]
    answers: list[dict[str, Any] | Exception] = []
    for inputs in requests:
        try:
            answers.append(dict(zip(names, session.run(names, dict(inputs)), strict=True)))
        except Exception as error:
            answers.append(error)
    return answers


async def run_together(
    scheduler: Scheduler, requests: Sequence[Inputs]
) -> list[dict[str, Any] | BaseException]:
    """Run all requests in one turn of the loop; each one's answer or error."""
    with anyio.fail_after(LIMIT_S):
        return await asyncio.gather(*map(scheduler.run, requests), return_exceptions=True)


def assert_each_as_alone(
    path: str,
    requests: Sequence[Inputs],
    *,
    may_refuse: bool = False,
    may_pad: bool = False,
    factor: float = 1.0,
    **options: Any,
) -> None:
    """Run requests together, twice, and compare each with what onnxruntime gives for it alone.

    What onnxruntime cannot run must be an `InputError`; with `may_pad`, what is too small for it
    may have any answer. With `may_refuse`, anything may be an `InputError`, but what the program
    itself says it takes: the shapes of its inputs.
    """
    wanted = alone(path, requests)

    async def main() -> None:
        async with Scheduler(path, devices=1, **options) as scheduler:
            for _ in range(2):
                answers = await run_together(scheduler, requests)
                for inputs, found, one in zip(requests, answers, wanted, strict=True):
                    specs = scheduler.program.inputs
                    fits = all(inputs[each.name].shape == each.shape for each in specs)
                    is_small = all(len(inputs[each.name]) < each.shape[0] for each in specs)
                    if not (may_pad and is_small):
                        check_answer(found, one, may_refuse=may_refuse and not fits, factor=factor)

    asyncio.run(main())


def check_answer(
    found: dict[str, Any] | BaseException,
    wanted: dict[str, Any] | Exception,
    *,
    may_refuse: bool,
    factor: float = 1.0,
) -> None:
    """Fail unless an answer is as wanted, or is the `InputError` that it may be."""
    if isinstance(found, InputError) and (may_refuse or isinstance(wanted, Exception)):
        return
    if isinstance(found, BaseException):
        raise found
    assert not isinstance(wanted, Exception), f"onnxruntime alone refuses it: {wanted}"
    assert_near(found, wanted, factor)
