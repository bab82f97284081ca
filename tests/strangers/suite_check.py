"""Runs one case of the backend suite through the Scheduler, and says how that compares.

Verdicts:
- "same": alone, between other callers' rows, and afterwards it gave what onnxruntime gives.
- "refused": a clear error said that it cannot run: `ConfigError` or `CompileError` at opening,
  `InputError` at the call.
- "unrunnable": onnxruntime itself does not pass the case, so nothing is to be compared.
- all others are failures: "wrong", "aliased" or the name of the error.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
import numpy as np
import onnx

from qaic_sched import CompileError, ConfigError, InputError, Scheduler
from tests.strangers.comparing import range_of, tolerance
from tests.strangers.suite_cases import BATCH, sizes_of, with_symbolic_rows

if TYPE_CHECKING:
    from pathlib import Path

    from tests.strangers.suite_cases import Case

__all__ = ["ACCEPTED", "Verdict", "check_case"]

ACCEPTED = {"same", "refused", "unrunnable"}

STEPS = ("alone", "among others", "afterwards")

LIMIT_S = 20.0
"""Longest for one scheduler, from opening it to leaving it."""


@dataclass(frozen=True)
class Verdict:
    """What became of a case, and in which step."""

    verdict: str
    detail: str = ""
    is_batched: bool = False


def check_case(case: Case, folder: Path, mode: str) -> Verdict:
    """Run every data set of a case; the first verdict that is not "same".

    In mode "compiled" or "plain" the model is as it came. In mode "symbolic" its first dimension
    has a symbol instead of a size, and the program a few rows more than the case: it is padded.
    """
    model = with_symbolic_rows(case.model) if mode == "symbolic" else case.model
    if model is None:
        return Verdict("unrunnable", "has no common first dimension")
    path = folder / "model.onnx"
    onnx.save(model, str(path))
    verdict = Verdict("unrunnable", "no data")
    for inputs, expected in case.data_sets():
        direct = run_directly(str(path), inputs)
        if direct is None or not agree(direct, expected, case.rtol, case.atol):
            return Verdict("unrunnable", "not with onnxruntime alone")
        sizes = sizes_of(model, inputs)
        if BATCH in sizes:
            sizes[BATCH] += 3
        options = {"compile": mode == "compiled", "onnx_define_symbol": sizes}
        verdict = asyncio.run(_check(str(path), options, inputs, direct))
        if verdict.verdict != "same":
            return verdict
    return verdict


def run_directly(path: str, inputs: dict[str, Any]) -> dict[str, Any] | None:
    """What onnxruntime alone gives; None where it cannot run the case."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_outputs()]
        return dict(zip(names, session.run(names, inputs), strict=True))
    except Exception:
        return None


async def _check(
    path: str, options: dict[str, Any], inputs: dict[str, Any], expected: dict[str, Any]
) -> Verdict:
    step, is_batched = "opening", False
    try:
        with anyio.fail_after(LIMIT_S):
            async with Scheduler(path, devices=1, **options) as scheduler:
                is_batched = scheduler.program.is_batched and bool(inputs)
                for step in STEPS if is_batched else STEPS[:1]:
                    problem = await _problem(scheduler, step, inputs, expected)
                    if problem:
                        return Verdict(problem, step, is_batched)
    except Exception as error:
        refusals = (ConfigError, CompileError) if step == "opening" else (InputError,)
        kind = "refused" if isinstance(error, refusals) else type(error).__name__
        return Verdict(kind, f"{step}: {error}", is_batched)
    return Verdict("same", "", is_batched)


async def _problem(
    scheduler: Scheduler, step: str, inputs: dict[str, Any], expected: dict[str, Any]
) -> str:
    given = {name: np.copy(value) for name, value in inputs.items()}
    run = run_among_others if step == "among others" else Scheduler.run
    return judge(given, inputs, await run(scheduler, given), expected)


async def run_among_others(scheduler: Scheduler, inputs: dict[str, Any]) -> dict[str, Any]:
    """Run a request between requests of one row each, with other values; those may fail."""
    noise = [scheduler.submit(row) for row in _others(inputs)]
    request = scheduler.submit(inputs)
    noise += [scheduler.submit(row) for row in _others(inputs)]
    answers = await asyncio.gather(request, *noise, return_exceptions=True)
    if isinstance(answers[0], BaseException):
        raise answers[0]
    return answers[0]


def _others(inputs: dict[str, Any]) -> list[dict[str, Any]]:
    """Up to three single rows, floats a hundred times as large; integers may be indexes."""
    rows = min(len(value) for value in inputs.values())
    return [
        {name: _louder(value[row : row + 1]) for name, value in inputs.items()}
        for row in sorted({rows - 1, 1 % rows, 0}, reverse=True)
    ]


def _louder(array: Any) -> Any:
    with np.errstate(all="ignore"):
        return array * array.dtype.type(100) if array.dtype.kind == "f" else array.copy()


def judge(
    given: dict[str, Any], kept: dict[str, Any], outputs: dict[str, Any], expected: dict[str, Any]
) -> str:
    """What is wrong with an answer; empty if nothing is."""
    if outputs.keys() != expected.keys() or not agree(outputs, expected):
        return "wrong"
    if any(np.shares_memory(one, other) for one in outputs.values() for other in given.values()):
        return "aliased"
    if not agree(given, kept, 0, 0):
        return "changed its inputs"
    return ""


def agree(
    found: dict[str, Any],
    expected: dict[str, Any],
    rtol: float | None = None,
    atol: float | None = None,
) -> bool:
    """Whether outputs are equal: shapes, types, and values by the tolerances given or by type."""
    return all(_same(one, expected[name], rtol, atol) for name, one in found.items())


def _same(found: Any, expected: Any, rtol: float | None, atol: float | None) -> bool:
    if isinstance(expected, list):
        is_list = isinstance(found, list) and len(found) == len(expected)
        return is_list and all(
            _same(*pair, rtol, atol) for pair in zip(found, expected, strict=True)
        )
    if found is None or expected is None:
        return found is expected
    found, expected = np.asarray(found), np.asarray(expected)
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    if found.dtype.kind not in "fc":
        return np.array_equal(found, expected)
    if rtol is None or atol is None:
        rtol = tolerance(expected.dtype)
        atol = rtol * range_of(expected)
    return np.allclose(found, expected, rtol, atol, equal_nan=True)
