"""Runs an MLPerf scenario under LoadGen in this process: LoadGen measures, we carry requests.

Rules of this file:
- LoadGen runs in a thread, the target on the event loop; `bridge` connects the two.
- LoadGen calls a run VALID even if requests fail; our verdict limits the errors as well.
- A running LoadGen cannot be stopped. A cancelled run leaves its thread waiting for ever, on which
  Python would crash at exit: if `is_left_behind()`, end the process by `os._exit`.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import msgspec

from qaic_sched.errors import ConfigError
from qaic_sched.extras import require
from qaic_sched.loadgen.inject.gc_freeze import gc_frozen
from qaic_sched.loadgen.inject.pilot import measure_latency
from qaic_sched.loadgen.mlperf.bridge import Bridge
from qaic_sched.loadgen.mlperf.summary import read_summary
from qaic_sched.loadgen.plan.plan import Burst, Poisson
from qaic_sched.loadgen.plan.scenarios import SAMPLES_PER_QUERY
from qaic_sched.loadgen.report.report import RuleResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from qaic_sched.loadgen.inject.pilot import Inputs
    from qaic_sched.loadgen.plan.plan import Plan
    from qaic_sched.loadgen.report.report import Findings
    from qaic_sched.loadgen.targets.base import Reply, Target, TargetInfo

__all__ = ["compare_p99", "is_left_behind", "loadgen_rules", "run_loadgen"]

NAMES = {
    "single_stream": "SingleStream",
    "multi_stream": "MultiStream",
    "server": "Server",
    "offline": "Offline",
}
SHORTEST_LATENCY_S = 20e-6
"""Limits the number of queries that LoadGen makes in advance: one per expected latency."""

_left_threads: list[Thread] = []


def is_left_behind() -> bool:
    """Return whether the thread of a cancelled run is still in this process."""
    return any(thread.is_alive() for thread in _left_threads)


async def run_loadgen(
    target: Target,
    info: TargetInfo,
    inputs: Inputs,
    plan: Plan,
    *,
    output_dir: Path,
    on_reply: Callable[[int, Reply], None] | None = None,
) -> dict[str, Any]:
    """Run a plan of `scenarios.plan_for` under LoadGen; return the results for `Report.mlperf`.

    `inputs` have one sample each. LoadGen's logs are kept in `output_dir`. If the target gives no
    answer for the plan's `drain_s`, all outstanding and further queries are completed as failed.
    `on_reply` gets the index of the input and the reply of each query. Raises `ConfigError` for a
    plan or inputs that LoadGen cannot run.
    """
    _refuse(plan, info, inputs)
    loadgen = require("mlperf_loadgen", "mlperf")
    settings = await _settings(loadgen, target, inputs, plan)
    loop = asyncio.get_running_loop()
    bridge = Bridge(loop, loadgen, target, inputs, plan.timeout_s, on_reply)
    log = loadgen.LogSettings()
    log.enable_trace = False
    log.log_output.outdir = str(output_dir)
    test = _Test(loop, loadgen, bridge, len(inputs), settings, log)
    with gc_frozen():
        await test.run(plan.drain_s)
    return _result(plan, bridge, output_dir)


def _refuse(plan: Plan, info: TargetInfo, inputs: Inputs) -> None:
    """Raise `ConfigError` for plans and inputs that LoadGen cannot run."""
    if plan.scenario not in NAMES:
        raise ConfigError(f"{plan.scenario} is not a scenario of MLPerf: one of {', '.join(NAMES)}")
    if is_left_behind():
        raise ConfigError("LoadGen was interrupted in this process and cannot run in it again")
    if info.is_batched:
        rows = {name: len(array) for name, array in inputs[0].items() if len(array) != 1}
        if rows:
            raise ConfigError(f"LoadGen needs inputs of one sample, these have more rows: {rows}")


async def _settings(loadgen: Any, target: Target, inputs: Inputs, plan: Plan) -> Any:
    """Translate a plan to LoadGen's settings."""
    rules = plan.rules
    settings = loadgen.TestSettings()
    settings.scenario = getattr(loadgen.TestScenario, NAMES[plan.scenario])
    settings.mode = loadgen.TestMode.PerformanceOnly
    settings.min_duration_ms = round(min(plan.duration_s, rules.min_duration_s) * 1000)
    settings.min_query_count = rules.min_requests
    settings.qsl_rng_seed = plan.seed
    settings.sample_index_rng_seed = plan.seed
    settings.schedule_rng_seed = plan.seed
    match plan.scenario, plan.arrivals:
        case "server", Poisson(rate=rate):
            settings.server_target_qps = rate
            # All overdue queries come in one call, so LoadGen's thread waits for the interpreter
            # once. With this, a shorter switch interval of the interpreter gains nothing.
            settings.server_coalesce_queries = True
            if rules.slo is not None:
                settings.server_target_latency_ns = round(rules.slo.limit_s * 1e9)
                settings.server_target_latency_percentile = rules.slo.percentile / 100
        case "offline", Burst(count=count):
            settings.min_query_count = count
        case "single_stream", None:
            latency_s = await measure_latency(target, inputs)
            settings.single_stream_expected_latency_ns = _expected_ns(latency_s)
            settings.single_stream_target_latency_percentile = rules.percentile / 100
        case "multi_stream", None:
            latency_s = await measure_latency(target, inputs, SAMPLES_PER_QUERY)
            settings.multi_stream_expected_latency_ns = _expected_ns(latency_s)
            settings.multi_stream_target_latency_percentile = rules.percentile / 100
            settings.multi_stream_samples_per_query = SAMPLES_PER_QUERY
        case _:
            raise ConfigError(f"{plan.scenario} with {plan.arrivals}: against MLPerf's rules")
    return settings


def _expected_ns(latency_s: float) -> float:
    """Return half of the measured latency: LoadGen must not run out of queries."""
    return round(max(latency_s / 2, SHORTEST_LATENCY_S) * 1e9)


class _Test:
    """One run of LoadGen, in a thread that does not keep the process alive."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        loadgen: Any,
        bridge: Bridge,
        num_inputs: int,
        settings: Any,
        log: Any,
    ) -> None:
        self._loop = loop
        self._loadgen = loadgen
        self._bridge = bridge
        self._num_inputs = num_inputs
        self._settings = settings
        self._log = log
        self._ended: asyncio.Future[None] = loop.create_future()

    async def run(self, patience_s: float) -> None:
        """Run LoadGen to its end; if cancelled, leave its thread behind."""
        thread = Thread(target=self._run_in_thread, name="mlperf-loadgen", daemon=True)
        thread.start()
        try:
            await self._watch(patience_s)
        except asyncio.CancelledError:
            _left_threads.append(thread)
            self._bridge.leave()
            raise
        await self._ended

    async def _watch(self, patience_s: float) -> None:
        """Wait for the end; give the target up if it gives no answer for `patience_s`."""
        bridge = self._bridge
        num_answered = -1
        while not self._ended.done():
            await asyncio.wait([self._ended], timeout=patience_s)
            if bridge.num_out and bridge.num_answered == num_answered:
                bridge.give_up(f"no answer for {patience_s:g} s")
            num_answered = bridge.num_answered

    def _run_in_thread(self) -> None:
        error = None
        try:
            self._start()
        except BaseException as raised:
            error = raised
        with suppress(RuntimeError):  # the loop is closed after a cancelled run
            self._loop.call_soon_threadsafe(self._end, error)

    def _start(self) -> None:
        """Run LoadGen; return when it has written its logs."""
        loadgen = self._loadgen
        Path(self._log.log_output.outdir).mkdir(parents=True, exist_ok=True)
        sut = loadgen.ConstructFastSUT(self._bridge.issue, _nothing)
        qsl = loadgen.ConstructQSL(self._num_inputs, self._num_inputs, _nothing, _nothing)
        try:
            # An empty file name, so that an audit.config in this folder does not change the run.
            loadgen.StartTestWithLogSettings(sut, qsl, self._settings, self._log, "")
        finally:
            loadgen.DestroyQSL(qsl)
            loadgen.DestroyFastSUT(sut)

    def _end(self, error: BaseException | None) -> None:
        if self._ended.done():
            return
        if error is None:
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)


def _nothing(*args: object) -> None:
    """Callback without effect: inputs are loaded already, and no query is held back."""


def _result(plan: Plan, bridge: Bridge, output_dir: Path) -> dict[str, Any]:
    """Combine LoadGen's summary, the failures that it ignores, and the rules for both."""
    summary = read_summary(output_dir / "mlperf_log_summary.txt")
    result = {
        "version": version("mlcommons-loadgen"),
        "loadgen": summary,
        "answered": bridge.num_answered,
        "failures": bridge.failures,
        "problems": bridge.problems,
        "logs": [str(path) for path in sorted(output_dir.glob("mlperf_log_*"))],
    }
    rules = loadgen_rules(result, plan.rules.max_error_share)
    return {
        **result,
        "is_valid": all(rule.holds for rule in rules),
        "rules": msgspec.to_builtins(rules),
    }


def loadgen_rules(result: dict[str, Any], max_error_share: float = 0.0) -> tuple[RuleResult, ...]:
    """Return LoadGen's verdict as a rule, and a rule for errors, which LoadGen lacks."""
    summary = result["loadgen"]
    broken = [name for name, holds in summary["constraints"].items() if not holds]
    reasons = "; ".join([*(f"not satisfied: {name}" for name in broken), *summary["reasons"]])
    verdict = "VALID" if summary["is_valid"] else "INVALID"
    failed = sum(result["failures"].values())
    share = failed / max(result["answered"], 1)
    return (
        RuleResult(
            name="loadgen",
            holds=summary["is_valid"],
            text=f"LoadGen says {verdict}" + (f": {reasons}" if reasons else ""),
        ),
        RuleResult(
            name="loadgen_errors",
            holds=share <= max_error_share,
            text=f"{failed} of {result['answered']} queries had no result, which LoadGen counts as"
            f" answered; the limit is {max_error_share:.2%}",
            value=share,
            limit=max_error_share,
        ),
    )


def compare_p99(findings: Findings, loadgen: dict[str, Any]) -> dict[str, Any]:
    """Return our p99 from the planned instant, LoadGen's, and the relative difference.

    A missing p99 is None. Ours leaves out the warm-up, LoadGen's includes it.
    """
    latency = findings.scheduled
    percentiles = latency.percentiles if latency is not None else ()
    ours_s = next((each.value_s for each in percentiles if each.percentile == 99.0), None)
    loadgen_s = loadgen["loadgen"]["percentiles_s"].get("99")
    is_comparable = ours_s is not None and bool(loadgen_s)
    return {
        "ours_s": ours_s,
        "loadgen_s": loadgen_s,
        "difference": (ours_s - loadgen_s) / loadgen_s if is_comparable else None,
    }
