"""The inputs of requests: a library that is made once and sent repeatedly.

Rules of this file:
- Nothing is made, copied or checked per request: the measurement would include it.
- Equal target, seed and count give equal inputs, in equal order.
- Every input is sent equally often, in a random order that a cache cannot learn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.random import PCG64, Generator

from qaic_sched.errors import ConfigError, InputError
from qaic_sched.npz_file import read_arrays
from qaic_sched.program import Program
from qaic_sched.tensors import validate

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from typing_extensions import Self

    from qaic_sched.loadgen.targets.base import TargetInfo
    from qaic_sched.program import Tensors, TensorSpec

__all__ = ["InputLibrary"]

_ORDER_LENGTH = 4096
"""The order repeats after about this number of requests, or after one round of all inputs."""


class InputLibrary:
    """`count` distinct inputs of `samples_per_request` samples each, drawn with `seed`."""

    def __init__(
        self, info: TargetInfo, samples_per_request: int = 1, seed: int = 1, count: int = 64
    ) -> None:
        rows = _rows_of(info, samples_per_request)
        rng = Generator(PCG64([seed, 0]))
        self._fill([{s.name: _draw(s, rows, rng) for s in info.inputs} for _ in range(count)], seed)

    @classmethod
    def from_file(
        cls, path: Path, info: TargetInfo, samples_per_request: int = 1, seed: int = 1
    ) -> Self:
        """Cut the rows of an `.npz` file into requests; the last one is filled with first rows.

        For a target without a batch axis the file has arrays of the input shapes, or stacks of
        them. Raises `InputError`, which names the file and the input that does not fit.
        """
        rows = _rows_of(info, samples_per_request)
        library = cls.__new__(cls)
        arrays = read_arrays(path)
        try:
            library._fill(_cut(arrays, info, rows), seed)
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        return library

    def _fill(self, requests: Sequence[Tensors], seed: int) -> None:
        self._requests = requests
        rounds = max(1, _ORDER_LENGTH // len(requests))
        order = np.tile(np.arange(len(requests)), (rounds, 1))
        self._order: list[int] = (
            Generator(PCG64([seed, 1])).permuted(order, axis=1).ravel().tolist()
        )

    def repeated(self) -> Self:
        """Return a library that sends the first input only."""
        library = type(self).__new__(type(self))
        library._requests, library._order = self._requests[:1], [0]
        return library

    def __len__(self) -> int:
        return len(self._requests)

    def __getitem__(self, index: int) -> Tensors:
        return self._requests[index]

    def index_of(self, request: int) -> int:
        """Return the index of the input that a request carries, by the number of the request."""
        return self._order[request % len(self._order)]


def _rows_of(info: TargetInfo, samples_per_request: int) -> int:
    """Return the rows of one request along axis 0; 0 without a batch axis."""
    if samples_per_request < 1:
        raise ConfigError(f"samples_per_request: must be at least 1, not {samples_per_request}")
    if not info.is_batched and samples_per_request > 1:
        raise ConfigError(
            f"samples_per_request: must be 1, not {samples_per_request}: {info.name} has no "
            "batch axis"
        )
    return samples_per_request if info.is_batched else 0


def _draw(spec: TensorSpec, rows: int, rng: Generator) -> NDArray[np.generic]:
    """Draw random values for one input: standard normal, integers from 0 to 9, or booleans."""
    shape = (rows, *spec.shape[1:]) if rows else spec.shape
    kind = spec.dtype.kind
    if kind == "f":
        return rng.standard_normal(shape, np.float32).astype(spec.dtype)
    if kind == "b":
        return rng.integers(0, 2, shape).astype(spec.dtype)
    if kind in "iu":
        return rng.integers(0, 10, shape).astype(spec.dtype)
    raise ConfigError(
        f"input {spec.name!r}: no random values for {spec.dtype}; give inputs in a file"
    )


def _cut(arrays: Tensors, info: TargetInfo, rows: int) -> list[Tensors]:
    """Cut arrays into requests of `rows` rows, views if possible; 0: without a batch axis."""
    if not rows:
        return _unstack(arrays, info)
    program = Program(info.inputs, (), (info.max_batch_size,))
    tensors, there = validate(program, arrays)
    requests = []
    for first in range(0, there, rows):
        if first + rows <= there:
            cut = {name: array[first : first + rows] for name, array in tensors.items()}
        else:
            around = np.arange(first, first + rows) % there
            cut = {name: array[around] for name, array in tensors.items()}
        requests.append(cut)
    return requests


def _unstack(arrays: Tensors, info: TargetInfo) -> list[Tensors]:
    """Split arrays into requests for a target without a batch axis."""
    program = Program(info.inputs, (), ())
    dimensions = {spec.name: len(spec.shape) for spec in info.inputs}
    stacked = [n for n, a in arrays.items() if n in dimensions and a.ndim == dimensions[n] + 1]
    lengths = {len(arrays[name]) for name in stacked}
    if len(stacked) < len(arrays) or len(lengths) != 1 or lengths == {0}:
        return [validate(program, arrays)[0]]
    return [
        validate(program, {name: array[i] for name, array in arrays.items()})[0]
        for i in range(lengths.pop())
    ]
