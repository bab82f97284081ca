"""A KServe v2 server, over HTTP or gRPC, as a target.

Rules of this file:
- The client is tritonclient's, from the extra `load`; tensors are sent as binary.
- `max_batch_size` comes from the server's configuration of the model. Without one, the model is
  batched if the first axis of every input is free, and `max_batch_size` is 1. Any other free axis
  counts as 1.
- Errors after `open` are replies: 429 and 503 are REJECTED, 504 and requests over their `timeout_s`
  are EXPIRED, all others are FAILED, including gRPC's UNAVAILABLE for a dead server.
- The protocol has no metrics of devices.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

import numpy as np

from qaic_sched.errors import ConfigError, NoDeviceError
from qaic_sched.extras import require
from qaic_sched.loadgen.targets.base import DeviceSample, Outcome, Reply, Target, TargetInfo
from qaic_sched.program import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from qaic_sched.program import Tensors

__all__ = ["ServerTarget"]

_CONNECTIONS = 512
_OPEN_LIMIT_S = 10.0
_MAX_ENCODED = 4096
"""Inputs whose encoded form is cached."""
_MAX_PROBLEM_CHARS = 200
_REJECTED = ("429", "503", "StatusCode.RESOURCE_EXHAUSTED")
_EXPIRED = ("504", "StatusCode.DEADLINE_EXCEEDED")


class ServerTarget(Target):
    """A model of the server at `http://host:port[/model]` or `grpc://host:port[/model]`.

    The model may be left out if the server has only one.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "grpc") or not parts.hostname:
            raise ConfigError(
                f"{url}: expected http://host:port[/model] or grpc://host:port[/model]"
            )
        self._url = url
        self._is_grpc = parts.scheme == "grpc"
        self._address = parts.netloc
        self._model = unquote(parts.path.strip("/"))
        self._client: Any = None
        self._triton: Any = None
        self._errors: tuple[type[Exception], ...] = (OSError, asyncio.TimeoutError)
        self._tasks: set[asyncio.Task[None]] = set()
        self._encoded: dict[int, tuple[Tensors, list[Any]]] = {}
        self._outputs: list[str] = []

    async def open(self) -> TargetInfo:
        """Connect and read the model's metadata.

        Raises `NoDeviceError` if no server answers, `ConfigError` if it refuses.
        """
        self._triton = require(f"tritonclient.{'grpc' if self._is_grpc else 'http'}.aio", "load")
        utils = require("tritonclient.utils", "load")
        self._errors += (utils.InferenceServerException,)
        if self._is_grpc:
            self._client = self._triton.InferenceServerClient(self._address)
        else:
            self._errors += (require("aiohttp", "load").ClientError,)
            self._client = self._triton.InferenceServerClient(
                self._address, conn_limit=_CONNECTIONS, conn_timeout=None
            )
        if not await self._ask(self._client.is_server_live()):
            raise NoDeviceError(f"{self._url}: the server reports that it is not live")
        if not self._model:
            self._model = await self._only_model()
        metadata = await self._ask(self._client.get_model_metadata(self._model, **self._json()))
        self._outputs = [each["name"] for each in metadata["outputs"]]
        return self._info(metadata, await self._config(), utils)

    def send(self, inputs: Tensors, timeout_s: float | None, done: Callable[[Reply], None]) -> None:
        """Send one request in a new task."""
        task = asyncio.get_running_loop().create_task(self._infer(inputs, timeout_s, done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def sample(self) -> DeviceSample | None:
        """Return None: the protocol has no metrics of devices."""
        return None

    async def aclose(self) -> None:
        """Cancel the outstanding requests and close the connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.close()

    # The model's metadata

    async def _ask(self, question: Any) -> Any:
        """Await an answer of the server; turn its errors into ours."""
        try:
            return await asyncio.wait_for(question, _OPEN_LIMIT_S)
        except self._errors as error:
            if _status(error) not in ("", "StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED"):
                raise ConfigError(f"{self._url}: {_text(error)}") from error
            raise NoDeviceError(
                f"{self._url}: no KServe v2 server answers there: {_text(error)}"
            ) from error

    def _json(self) -> dict[str, bool]:
        return {"as_json": True} if self._is_grpc else {}

    async def _only_model(self) -> str:
        try:
            index = await self._ask(self._client.get_model_repository_index(**self._json()))
        except ConfigError as error:
            raise ConfigError(
                f"{self._url}: the server does not list its models: add the name after the port"
            ) from error
        models = index.get("models", []) if self._is_grpc else index
        names = sorted({each["name"] for each in models})
        if len(names) != 1:
            there = ", ".join(names) or "none"
            raise ConfigError(f"{self._url}: add the name of a model after the port: {there}")
        return str(names[0])

    async def _config(self) -> dict[str, Any]:
        """Return the server's configuration of the model; empty if it has none."""
        try:
            answer = await self._ask(self._client.get_model_config(self._model, **self._json()))
        except ConfigError:
            return {}
        config: dict[str, Any] = answer.get("config", {}) if self._is_grpc else answer
        return config

    def _info(self, metadata: Any, config: dict[str, Any], utils: Any) -> TargetInfo:
        # gRPC gives 64-bit numbers as text in JSON.
        shapes = {each["name"]: [int(n) for n in each["shape"]] for each in metadata["inputs"]}
        most = int(config.get("max_batch_size", 0))
        is_free = all(shape[:1] == [-1] for shape in shapes.values())
        is_batched = is_free and (most > 0 or "max_batch_size" not in config)
        specs = []
        for each in metadata["inputs"]:
            shape = [max(n, 1) for n in shapes[each["name"]]]
            if is_batched:
                shape[0] = max(most, 1)
            dtype = utils.triton_to_np_dtype(each["datatype"])
            if dtype is None:
                raise ConfigError(
                    f"{self._url}: input {each['name']!r}: unsupported type {each['datatype']}"
                )
            specs.append(TensorSpec(each["name"], tuple(shape), np.dtype(dtype)))
        size = max(most, 1) if is_batched else 1
        return TargetInfo(self._model, tuple(specs), size, is_batched, {}, {"url": self._url})

    # Requests

    async def _infer(
        self, inputs: Tensors, timeout_s: float | None, done: Callable[[Reply], None]
    ) -> None:
        try:
            encoded = self._encode(inputs)
            if self._is_grpc:
                result = await self._client.infer(self._model, encoded, client_timeout=timeout_s)
            else:
                answer = self._client.infer(self._model, encoded)
                result = await (answer if timeout_s is None else _within(answer, timeout_s))
            outputs = {name: result.as_numpy(name) for name in self._outputs}
        except asyncio.CancelledError:
            done(Reply(Outcome.CANCELLED, problem="cancelled"))
            raise
        except Exception as error:
            done(Reply(_outcome(error), problem=_text(error)))
        else:
            done(Reply(Outcome.DONE, outputs))

    def _encode(self, inputs: Tensors) -> list[Any]:
        """Return the client's form of the tensors, cached: inputs are sent repeatedly."""
        kept = self._encoded.get(id(inputs))
        if kept is not None:
            return kept[1]
        encoded = []
        to_datatype = require("tritonclient.utils", "load").np_to_triton_dtype
        for name, array in inputs.items():
            tensor = self._triton.InferInput(name, array.shape, to_datatype(array.dtype))
            encoded.append(tensor.set_data_from_numpy(array))
        if len(self._encoded) >= _MAX_ENCODED:
            self._encoded.clear()
        # Keeps the tensors alive: another object could get their id.
        self._encoded[id(inputs)] = inputs, encoded
        return encoded


async def _within(answer: Any, timeout_s: float) -> Any:
    return await asyncio.wait_for(answer, timeout_s)


def _status(error: Exception) -> str:
    status = getattr(error, "status", None)
    return str(status()) if callable(status) else ""


def _outcome(error: Exception) -> Outcome:
    status = _status(error)
    if status in _EXPIRED or isinstance(error, asyncio.TimeoutError):
        return Outcome.EXPIRED
    return Outcome.REJECTED if status in _REJECTED else Outcome.FAILED


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".strip(": ")[:_MAX_PROBLEM_CHARS]
