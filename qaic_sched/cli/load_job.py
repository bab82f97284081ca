"""From the options of `qaic-sched load` to a run: the target, the plan and the search.

Its only output names the choices that it made where the options left them open.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from qaic_sched.backends.choose import choose_kind, find_model
from qaic_sched.cli.load_options import numbers
from qaic_sched.cli.output import say
from qaic_sched.config.layers import changed_config
from qaic_sched.errors import ConfigError
from qaic_sched.loadgen.campaign import find_rate, over_concurrency, over_rates, over_shapes
from qaic_sched.loadgen.inject.pilot import measure_rate
from qaic_sched.loadgen.load import LoadRun, Processes, filling, opened
from qaic_sched.loadgen.plan.plan import Plan, Rules, Trace
from qaic_sched.loadgen.plan.scenarios import is_official, plan_for
from qaic_sched.loadgen.plan.traces import read_trace
from qaic_sched.loadgen.report.host import Origin
from qaic_sched.loadgen.search.sweep import Grid, Shape
from qaic_sched.loadgen.targets.scheduler import SchedulerTarget
from qaic_sched.loadgen.targets.server import ServerTarget
from qaic_sched.scheduler.front import Scheduler
from qaic_sched.scheduler.several import name_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qaic_sched.cli.load_options import LoadOptions
    from qaic_sched.config.keys import Config
    from qaic_sched.loadgen.inject.run_progress import RunProgress
    from qaic_sched.loadgen.load import LoadTest
    from qaic_sched.loadgen.targets.base import Target, TargetInfo

__all__ = ["LoadJob", "check_virtual"]

DURATION_S = 30.0
DURATION_IN_SEARCH_S = 10.0
"""The default duration of each run of a search or sweep."""


def check_virtual(configs: Mapping[str, Config]) -> None:
    """Raise `ConfigError` unless every model of the configuration runs on simulated cards."""
    for config in Scheduler(configs).configs.values():
        kind = choose_kind(config.backend, find_model(config.model))
        if kind != "sim":
            raise ConfigError(
                f"--virtual: {config.model} runs on {kind}, in real time: only simulated cards"
                " (a .sim.yaml model) run in virtual time"
            )
        if config.event_log is not None:
            raise ConfigError("--virtual: event_log needs real time: leave one of them out")


class LoadJob:
    """One call of the command: makes the run that the options describe."""

    def __init__(
        self,
        options: LoadOptions,
        configs: Mapping[str, Config],
        progress: RunProgress,
        interrupted: asyncio.Future[None],
    ) -> None:
        self._options = options
        self._configs = configs
        self._passed_on: dict[str, Any] = {
            "inputs": options.input_path,
            "progress": progress,
            "interrupted": interrupted,
            "origin": Origin.here(),
        }
        if options.processes > 1:
            self._passed_on["processes"] = Processes(options.target, options.processes)

    async def run(self) -> LoadRun:
        """Make the run; of a search, return the best one."""
        if self._options.search == "sweep":
            return await self._over_shapes()
        async with opened(self._target(), **self._passed_on) as test:
            plan = await self._plan(test)
            match self._options.search:
                case "find_rate":
                    rate = self._options.rate
                    start = None if rate is None else rate * plan.samples_per_request
                    return await find_rate(test, plan, start)
                case "sweep_rates":
                    return await over_rates(test, plan, self._swept_rates(plan))
                case "sweep_concurrency":
                    text = self._options.sweep_concurrency or ""
                    levels = numbers("--sweep-concurrency", text, int, 1)
                    return await over_concurrency(test, plan, levels)
            report = self._options.report
            return await test.run(
                plan,
                check_outputs=self._options.check_outputs,
                repeated_input=self._options.repeated_input,
                loadgen=self._options.loadgen,
                loadgen_dir=None if report is None else report / "loadgen",
            )

    def _swept_rates(self, plan: Plan) -> list[float]:
        rates = numbers("--sweep-rates", self._options.sweep_rates or "", float, 0.0)
        return [rate * plan.samples_per_request for rate in rates]

    # Targets

    def _target(self, **overrides: Any) -> Target:
        options = self._options
        if options.is_server:
            return ServerTarget(options.target)
        configs = {name: changed_config(each, overrides) for name, each in self._configs.items()}
        scheduler = Scheduler(configs)
        name_of(scheduler.configs, options.model)
        return SchedulerTarget(scheduler, options.model)

    async def _over_shapes(self) -> LoadRun:
        """Sweep over shapes, with a new scheduler for each; the rest is as configured."""
        async with opened(self._target()) as test:
            info = test.info
        swept = self._options.shape()
        grid = Grid(
            devices=swept.get("devices", (len(info.activations),)),
            num_activations=swept.get("num_activations", (_number(info, "num_activations"),)),
            set_size=swept.get("set_size", (_number(info, "set_size"),)),
            batch=swept.get("batch", (self._options.samples or 1,)),
        )
        ids = info.config.get("devices")

        def make_target(shape: Shape) -> Target:
            devices: Any = shape.devices
            if isinstance(ids, list):
                if shape.devices > len(ids):
                    raise ConfigError(
                        f"devices: {shape.devices} are more than the configuration's {len(ids)}"
                    )
                devices = ids[: shape.devices]
            return self._target(
                devices=devices, num_activations=shape.num_activations, set_size=shape.set_size
            )

        def plan_of(info: TargetInfo, shape: Shape) -> Plan:
            return self._free_plan(info, shape.batch)

        return await over_shapes(make_target, plan_of, grid, **self._passed_on)

    # Plans

    async def _plan(self, test: LoadTest) -> Plan:
        if is_official(self._options.kind):
            return await self._official_plan(test)
        samples = self._options.samples or 1
        if self._options.kind == "closed" and not self._options.has("sweep_concurrency"):
            self._say_callers(test.info, samples)
        return self._free_plan(test.info, samples)

    def _say_callers(self, info: TargetInfo, samples: int) -> None:
        if self._options.concurrency is None:
            count = filling(info, samples)
            why = "fills every slot" if info.activations else "number of slots unknown"
            say(f"no --rate and no --concurrency: closed loop of {count} callers ({why})")

    async def _official_plan(self, test: LoadTest) -> Plan:
        options = self._options
        rate = options.rate
        if options.kind == "offline":
            inputs = await test.inputs(Plan(scenario="offline", seed=options.seed))
            rate = await measure_rate(test.target, inputs)
        plan = plan_for(
            options.kind,
            rate=rate,
            duration_s=options.duration,
            slo=options.parsed_slo(),
            samples=options.requests,
            seed=options.seed,
            timeout_s=options.timeout_s,
        )
        return msgspec.structs.replace(plan, is_precise=options.precise)

    def _free_plan(self, info: TargetInfo, samples: int) -> Plan:
        options = self._options
        slo = options.parsed_slo()
        is_open = options.kind == "open"
        arrivals = options.parsed_arrivals() if is_open else None
        usual_s = DURATION_S if options.search is None else DURATION_IN_SEARCH_S
        if isinstance(arrivals, Trace):
            # Ends just after the last arrival, so that it is sent.
            usual_s = float(read_trace(arrivals.path)[-1]) / 1e9 / arrivals.speedup + 1e-6
        return Plan(
            scenario=options.kind,
            arrivals=arrivals,
            concurrency=1 if is_open else options.concurrency or filling(info, samples),
            duration_s=options.duration or usual_s,
            max_requests=options.requests,
            samples_per_request=samples,
            seed=options.seed,
            timeout_s=options.timeout_s,
            is_precise=options.precise,
            rules=Rules(slo=slo, percentile=slo.percentile if slo else 99.0),
        )


def _number(info: TargetInfo, name: str) -> int:
    value = info.config[name]
    assert isinstance(value, int)
    return value
