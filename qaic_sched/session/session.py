"""The vendor's Session: blocking, thread-safe inference on one device, on any backend.

Assumptions (not verified on hardware), where the vendor documents nothing: the defaults of
`num_activations` and `set_size`, which are ours; the exceptions, where ours state the cause; and
the shape of the outputs, which older SDKs are said to return flat.
"""

from __future__ import annotations

import logging
from functools import partial
from threading import Lock
from time import perf_counter
from typing import TYPE_CHECKING

from qaic_sched.backends.choose import backend_for
from qaic_sched.config.layers import make_config
from qaic_sched.errors import ConfigError
from qaic_sched.metrics.histogram import Histogram
from qaic_sched.metrics.vendor import format_latency_metrics, latency_metrics
from qaic_sched.session.benchmark import Benchmark, BenchmarkResult
from qaic_sched.session.loaded import LoadedProgram, own_error
from qaic_sched.session.loop_thread import finish_alone
from qaic_sched.session.options import benchmark_extent, checked_changes, checked_count, only_device
from qaic_sched.session.profile import Profiler
from qaic_sched.session.shapes import CallableDict, check_one_inference, random_inputs, shapes_of
from qaic_sched.session.slots import Handover
from qaic_sched.session.source import ProgramSource

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

    from qaic_sched.backends.base import Backend
    from qaic_sched.config.keys import Config
    from qaic_sched.program import Program, Tensors
    from qaic_sched.session.benchmark import Claim
    from qaic_sched.session.loaded import Result
    from qaic_sched.session.shapes import ShapeDict

__all__ = ["Session"]

logger = logging.getLogger("qaic_sched")


class Session:
    """Runs inferences of one model on one device, as the vendor's `qaic.Session` does.

    `model_path` is an ONNX file, a compiled program, a `.sim.yaml` file or `pkg://…`; the options
    are the vendor's keywords, and `options_path` is a YAML file with those keys. Every method may
    be called from any thread. The session takes the device in `setup()` or the first `run()` and
    keeps it until `reset()`, which the end of a `with` statement calls.
    """

    def __init__(
        self, model_path: str | Path, *, options_path: str | Path | None = None, **options: object
    ) -> None:
        config = make_config(model_path, options_path=options_path, **options)
        self._begin(config, *_alone(config))

    @classmethod
    def of(cls, config: Config) -> Session:
        """Make the session of a configuration whose `devices` means one device."""
        return cls._on(config, *_alone(config))

    @classmethod
    def for_each_device(cls, config: Config) -> list[Session]:
        """Make a session on each device of a configuration, in the order of `devices`.

        The sessions share one backend that knows all devices: on the CPU, each gets its share of
        the cores. Raises `ConfigError` or `NoDeviceError` if the devices do not exist.
        """
        backend = _backend_of(config)
        device_ids = finish_alone(backend.select(config.devices))
        source = ProgramSource(backend, device_ids)
        return [cls._on(config, source, device_id) for device_id in device_ids]

    @classmethod
    def _on(cls, config: Config, source: ProgramSource, device_id: int) -> Session:
        session = cls.__new__(cls)
        session._begin(config, source, device_id)
        return session

    def _begin(self, config: Config, source: ProgramSource, device_id: int) -> None:
        self._options = {
            "num_activations": config.num_activations,
            "set_size": config.set_size,
            "dev_id": device_id,
        }
        self._source = source
        self._program: Program | None = None
        self._loaded: LoadedProgram | None = None
        self._loading = Lock()
        self._latencies = Histogram()
        self._recording = Lock()
        self._profiler = Profiler() if config.enable_profiling else None

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.reset()

    @property
    def model_input_shape_dict(self) -> ShapeDict:
        """Input name -> (shape, dtype), at the largest compiled batch size. Loads nothing."""
        return shapes_of(self._description().inputs)

    @property
    def model_output_shape_dict(self) -> ShapeDict:
        """Output name -> (shape, dtype), at the largest compiled batch size. Loads nothing."""
        return shapes_of(self._description().outputs)

    def setup(self) -> None:
        """Load the program on the device now, raising the errors that `run()` would raise."""
        self._ready()

    def run(self, input_dict: Mapping[str, object]) -> Tensors:
        """Run one inference and return its outputs, which belong to the caller.

        The number of rows must be a compiled batch size; dtypes are cast where that is safe.
        Raises `InputError`, also where the runtime rejects the values, or `DeviceError` if the
        inference failed on the device; if its `kind` is `lost` or `restarted`, call `reset` before
        the next run.
        """
        self._ready()  # so that latencies and profiles do not include the load
        if self._profiler is None:
            return self._run(input_dict)
        return self._profiler.run(self._run, input_dict)

    def reset(self) -> None:
        """Finish inferences in flight and release the device. The next `run()` loads again."""
        with self._loading:
            self._unload()

    @property
    def backend_options(self) -> CallableDict[int]:
        """The current values of the options that `update_backend_options` can change."""
        return CallableDict(self._options)

    def update_backend_options(self, **options: object) -> None:
        """Change `num_activations`, `set_size` or `dev_id` for the next `run()`, which loads again.

        Inferences in flight finish first. `ConfigError` names a wrong key or value; then nothing
        has changed.
        """
        changes = checked_changes(options)
        with self._loading:
            changed = {**self._options, **changes}
            if changed != self._options:
                self._unload()
                self._options = changed

    def get_metrics(self) -> dict[str, float | int]:
        """The latencies of successful `run()` calls in seconds, including the wait for a slot."""
        with self._recording:
            return latency_metrics(self._latencies)

    def print_metrics(self) -> None:
        """Print the metrics in the vendor's words."""
        print(format_latency_metrics(self.get_metrics()))

    def print_profile_data(self, n: int) -> None:
        """Print the profiles of the first `n` successful runs, as the vendor's tables.

        `ConfigError` without `enable_profiling`. Only the first 1000 runs are profiled.
        """
        if self._profiler is None:
            raise ConfigError(
                "print_profile_data: nothing was profiled: give the Session enable_profiling=True"
            )
        print(self._profiler.table(checked_count("n", n)))

    def run_benchmark(
        self,
        num_inferences: int | None = None,
        inf_time: float | None = None,
        input_dict: Mapping[str, object] | None = None,
    ) -> BenchmarkResult:
        """Keep every slot busy and return (inf_completed, inf_rate, inf_time, batch_size).

        Runs `num_inferences`, 40 by default, or for `inf_time` seconds; giving both is a
        `ConfigError`. Without `input_dict` the input is random. The metrics do not include it.
        """
        return self.prepare_benchmark(num_inferences, inf_time, input_dict).run()

    def prepare_benchmark(
        self,
        num_inferences: int | None = None,
        inf_time: float | None = None,
        input_dict: Mapping[str, object] | None = None,
    ) -> Benchmark:
        """Prepare `run_benchmark` without running it, so that a thread or a signal can stop it."""
        wanted, seconds = benchmark_extent(num_inferences, inf_time)
        if input_dict is None:
            input_dict = random_inputs(self._ready().program)
        return Benchmark(partial(self._claim, input_dict), wanted, seconds)

    def _run(self, input_dict: Mapping[str, object]) -> Tensors:
        started_at = perf_counter()
        loaded, activation, inputs, _ = self._claim(input_dict)
        handover: Handover[Result] = Handover()

        def on_completed(result: Result, completed_at: float) -> None:
            loaded.slots.release(activation)
            handover.give(result)

        loaded.submit(activation, inputs, on_completed)
        result = handover.take()
        if isinstance(result, Exception):
            raise own_error(result)
        with self._recording:
            self._latencies.record(perf_counter() - started_at)
        return result

    def _claim(self, input_dict: Mapping[str, object]) -> Claim:
        """Check the inputs and wait for a slot."""
        while True:
            loaded = self._ready()
            inputs, rows = check_one_inference(loaded.program, input_dict)
            activation = loaded.slots.acquire()
            if activation is not None:
                return loaded, activation, inputs, rows

    def _ready(self) -> LoadedProgram:
        """The loaded program; loads it now if none is loaded, or the last one is being released."""
        loaded = self._loaded
        if loaded is not None and loaded.slots.is_open:
            return loaded
        with self._loading:
            loaded = self._loaded
            if loaded is not None and loaded.slots.is_open:
                return loaded
            self._unload()
            return self._load()

    def _load(self) -> LoadedProgram:
        options = self._options
        self._loaded = LoadedProgram(
            self._source, options["dev_id"], options["num_activations"], options["set_size"]
        )
        self._program = self._loaded.program
        return self._loaded

    def _unload(self) -> None:
        if self._loaded is None:
            return
        try:
            self._loaded.close()
        except Exception:
            self._loaded = None  # it cannot be closed twice; the next run loads again
            raise
        self._loaded = None  # not reached by an interrupted close, which the next one resumes

    def _description(self) -> Program:
        if self._program is None:
            with self._loading:
                self._program = self._program or self._source.describe()
        return self._program


def _alone(config: Config) -> tuple[ProgramSource, int]:
    """The source of a session that shares its host with no other, and the id of its device."""
    device_id = only_device(config.devices)
    return ProgramSource(_backend_of(config)), device_id


def _backend_of(config: Config) -> Backend:
    if config.options.oversubscription_name is not None:
        # Assumption (not verified on hardware): no documented call of the binding takes it.
        logger.info("oversubscription_name: not used, each session has its cores to itself")
    return backend_for(config)
