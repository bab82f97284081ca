"""Tries the rows of a model on the CPU, in a session of its own that is closed again."""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import TYPE_CHECKING

from qaic_sched.backends.compiling.folder import digest_of
from qaic_sched.backends.compiling.weights import external_files
from qaic_sched.backends.cpu.onnx_model import first_line, import_onnxruntime, open_model
from qaic_sched.backends.row_finding import RowFinding, recall, remember
from qaic_sched.backends.row_trial import LIMIT_S, try_rows
from qaic_sched.backends.threads import in_thread

if TYPE_CHECKING:
    from typing import Any

    from qaic_sched.backends.cpu.onnx_model import ModelReader
    from qaic_sched.program import Program, Tensors

__all__ = ["find_rows"]

logger = logging.getLogger("qaic_sched")

OPEN_LIMIT_S = 2 * LIMIT_S
"""Longest for opening the model and the trial together."""


async def find_rows(
    reader: ModelReader, program: Program, num_threads: int, file: str
) -> RowFinding:
    """Return what is remembered of the model, or try it.

    `file` is the program, which has a size for each symbol; a model whose batch axis has a symbol
    is tried with several numbers of rows.
    """
    find = partial(_find, reader, program, num_threads, file)
    try:
        return await in_thread(find, "qaic-cpu-trial", OPEN_LIMIT_S)
    except TimeoutError:
        reason = f"unknown: the trial took longer than {OPEN_LIMIT_S:g} s"
        return RowFinding(rows="own", may_pad=False, is_final=False, reason=reason)


def _find(reader: ModelReader, program: Program, num_threads: int, file: str) -> RowFinding:
    if program.max_batch_size == 1 and not reader.axis.symbols and not reader.has_open_outputs:
        reason = "an inference has a single row"
        return RowFinding(rows="shared", may_pad=True, takes_any=False, reason=reason)
    key = _key_of(reader)
    finding = recall(key)
    if finding is None:
        began_at = time.monotonic()
        finding = _try(reader, program, num_threads, file)
        logger.info(
            "%s: tried its rows in %.1f s: %s",
            reader.path,
            time.monotonic() - began_at,
            finding.reason,
        )
        remember(key, finding)
    return finding


def _key_of(reader: ModelReader) -> list[Any]:
    """All that a finding depends on; the digests are of the model and its separate weights."""
    digests = [digest_of(path) for path in (reader.path, *external_files(reader.path))]
    return ["cpu", import_onnxruntime().__version__, digests, dict(reader.sizes)]


def _try(reader: ModelReader, program: Program, num_threads: int, file: str) -> RowFinding:
    takes_any = bool(reader.axis.symbols)
    try:
        if takes_any:
            sizes = {
                each: size for each, size in reader.sizes.items() if each not in reader.axis.symbols
            }
            session = open_model(reader.path, num_threads, sizes)
        else:
            session = open_model(file, num_threads, reader.sizes if file == reader.path else {})
    except Exception as error:
        reason = f"unknown: it could not be opened for a trial: {first_line(error)}"
        return RowFinding(rows="own", may_pad=False, is_final=False, reason=reason)
    names = [spec.name for spec in program.outputs]

    def run(inputs: Tensors) -> Tensors:
        return dict(zip(names, session.run(names, inputs), strict=True))

    return try_rows(program, run, time.monotonic, takes_any=takes_any)
