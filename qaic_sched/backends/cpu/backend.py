"""Runs models on the CPU with ONNX Runtime; a device is a share of this process's cores."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from qaic_sched.backends.base import Backend, CoreDemand, DeviceInfo
from qaic_sched.backends.compiling.compile import compile_model
from qaic_sched.backends.compiling.container import check_cpu_program, kind_of
from qaic_sched.backends.compiling.folder import FolderError
from qaic_sched.backends.cpu.compiler import CPU_COMPILER
from qaic_sched.backends.cpu.cores import choose_ids, memory_bytes, share_out, usable_cores
from qaic_sched.backends.cpu.executable import CpuExecutable
from qaic_sched.backends.cpu.onnx_model import ModelReader, open_model
from qaic_sched.backends.cpu.row_trial import find_rows
from qaic_sched.backends.row_finding import apply
from qaic_sched.backends.threads import in_thread
from qaic_sched.errors import ConfigError
from qaic_sched.program import Program, Rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qaic_sched.backends.base import Executable, RowsWish
    from qaic_sched.config.keys import ModelOptions

__all__ = ["CpuBackend"]

logger = logging.getLogger("qaic_sched")


class CpuBackend(Backend):
    """An ONNX model, or a program compiled from one, on shares of this process's cores."""

    kind = "cpu"

    def __init__(self, model_path: str, options: ModelOptions) -> None:
        super().__init__(model_path, options)
        self._program: Program | None = None
        self._reader: ModelReader | None = None
        self._file, self._sizes = model_path, options.onnx_define_symbol
        self._cores_of: dict[int, list[int]] = {}
        given = {"aic_num_cores": options.aic_num_cores, "convert_to_fp16": options.convert_to_fp16}
        unused = [name for name, value in given.items() if value]
        unused += [name for name in options.compiler if name != "compile_only"]
        if unused:
            logger.info("options not used on the CPU: %s", ", ".join(unused))

    async def find(self) -> list[DeviceInfo]:
        """One device, with the cores that this process may use and the memory of the host."""
        num_cores = len(usable_cores())
        return [DeviceInfo(0, "cpu", "ready", num_cores, num_cores, memory_bytes())]

    async def select(self, devices: str | int | list[int]) -> list[int]:
        """Share the cores among the devices: `"all"` means one, a count or a list of ids several.

        `ConfigError` if there are more devices than cores, ids beyond them, or repeated ids.
        """
        cores = usable_cores()
        device_ids = choose_ids(devices, len(cores))
        self._cores_of = share_out(cores, device_ids)
        return device_ids

    async def check_room(
        self, device_ids: Sequence[int], demands: Mapping[str, CoreDemand]
    ) -> None:
        """Warn of devices with more activations than cores; activations may share cores."""
        activations = sum(demand.num_activations for demand in demands.values())
        for device_id in device_ids:
            _warn_if_crowded(device_id, activations, self._cores_of[device_id])

    async def describe(self) -> Program:
        """Compile the model and read the result, once.

        `ConfigError` if the model cannot run with these options, `CompileError` if ONNX Runtime
        cannot save the compiled model.
        """
        if self._program is None:
            await self._compile()
            # The model tells more than the program made from it, which has sizes for its symbols.
            reader = self._reader = ModelReader(self.model_path, self._sizes_of_model())
            self._program = await in_thread(partial(reader.read, len(usable_cores())))
        return self._program

    def _sizes_of_model(self) -> Mapping[str, int]:
        return self.options.onnx_define_symbol if kind_of(self.model_path) is None else {}

    async def settle_rows(self, wish: RowsWish, executable: Executable | None = None) -> Program:
        """See `Backend.settle_rows`; here the rows are tried before anything is loaded.

        A program that takes any number of rows is the model itself, with that symbol left open.
        """
        program = await self.describe()
        assert self._reader is not None
        axis = self._reader.axis
        if wish == "shared":
            program = _shared(program)
        elif program.is_batched and program.rows is Rows.SHARED:
            if wish == "own" and axis.symbols:
                program = program.using(Rows.ANY, "batching.rows: own")
            else:
                finding = await find_rows(self._reader, program, len(usable_cores()), self._file)
                takes_any = bool(axis.symbols)
                program = apply(program, finding, takes_any=takes_any, wish=wish)
        if program.is_batched and program.rows is Rows.ANY:
            sizes = self.options.onnx_define_symbol
            self._file = self.model_path
            self._sizes = {each: sizes[each] for each in sizes if each not in axis.symbols}
        self._program = program
        return program

    async def _compile(self) -> None:
        """Compile the model, or check the compiled program; nothing with `compile: false`."""
        is_model = kind_of(self.model_path) is None
        if is_model and not self.options.compile:
            return
        try:
            if is_model:
                self._file = await compile_model(self.model_path, CPU_COMPILER, self.options)
            else:
                await in_thread(self._check_program)
        except FolderError as error:
            if self.options.output_dir is not None:
                raise
            logger.info("running %s uncompiled: %s", self.model_path, error)
        else:
            self._sizes = {}

    def _check_program(self) -> None:
        note = check_cpu_program(self.model_path)
        for symbol, size in self.options.onnx_define_symbol.items():
            if note.onnx_define_symbol.get(symbol) != size:
                raise ConfigError(
                    f"model {self.model_path}: onnx_define_symbol: it was compiled with "
                    f"{note.onnx_define_symbol}, not with {symbol}: {size}: compile it again"
                )

    async def load(self, device_id: int, num_activations: int, set_size: int) -> CpuExecutable:
        """Load `num_activations` ONNX Runtime sessions, which divide the device's cores.

        The activations of other models on the device count too.
        """
        program = await self.describe()
        cores = self._cores_of.get(device_id)
        if cores is None:
            raise ConfigError(
                f"devices: cpu device {device_id} was not selected: call select() first"
            )
        if not self.others:  # else `check_room` has warned
            _warn_if_crowded(device_id, num_activations, cores)
        executable = CpuExecutable(device_id, program, cores, self._open_session)
        await executable.load_more(num_activations, set_size)
        return executable

    def _open_session(self, num_cores: int, own_activations: int) -> Any:
        others = sum(each.num_activations for each in self.others.values())
        num_threads = max(1, num_cores // (own_activations + others))
        return open_model(self._file, num_threads, self._sizes)


def _shared(program: Program) -> Program:
    """The program as the user describes it: axis 0 is the batch axis wherever that is possible."""
    firsts = {spec.shape[:1] for spec in (*program.inputs, *program.outputs)}
    first = firsts.pop() if len(firsts) == 1 else ()
    if program.inputs and first and first[0] > 0:
        program = Program.of(program.inputs, program.outputs, first)
        return program.using(Rows.SHARED, "batching.rows: shared")
    return program


def _warn_if_crowded(device_id: int, num_activations: int, cores: Sequence[int]) -> None:
    if num_activations > len(cores):
        logger.warning(
            "cpu device %d: %d activations share %d core(s): use fewer activations",
            device_id,
            num_activations,
            len(cores),
        )
