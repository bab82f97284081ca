"""A server that speaks KServe v2, over HTTP or gRPC, as what is measured.

Rules of this file:
- The client is tritonclient's, of the extra `load`; tensors travel as binary.
- `max_batch_size` is what the server's configuration of the model says. A server that has none
  takes batches if the first axis of every input is free, and 1 stands for a number nobody knows.
  Any other free axis counts as 1.
- What goes wrong once it is open is a reply: 429 and 503 are REJECTED, 504 and what is over its
  `timeout_s` EXPIRED, everything else FAILED. gRPC calls a dead server UNAVAILABLE: that is FAILED.
- A server tells nothing of its devices.
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
_MOST_KEPT = 4096
"""Inputs of which the encoded form is kept."""
_MOST_TEXT = 200
_REJECTED = ("429", "503", "StatusCode.RESOURCE_EXHAUSTED")
_EXPIRED = ("504", "StatusCode.DEADLINE_EXCEEDED")


class ServerTarget(Target):
    """`http://host:port[/model]` or `grpc://host:port[/model]`; by default its only model."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "grpc") or not parts.hostname:
            raise ConfigError(f"{url}: wanted http://host:port[/model] or grpc://host:port[/model]")
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
        """Connect and learn the model; `NoDeviceError` where nobody answers, else `ConfigError`."""
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
            raise NoDeviceError(f"{self._url}: the server says that it is not alive")
        if not self._model:
            self._model = await self._only_model()
        metadata = await self._ask(self._client.get_model_metadata(self._model, **self._json()))
        self._outputs = [each["name"] for each in metadata["outputs"]]
        return self._info(metadata, await self._config(), utils)

    def send(self, inputs: Tensors, timeout_s: float | None, done: Callable[[Reply], None]) -> None:
        """Send one request from a task of its own."""
        task = asyncio.get_running_loop().create_task(self._infer(inputs, timeout_s, done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def sample(self) -> DeviceSample | None:
        """Nothing: the protocol has no word for devices."""
        return None

    async def aclose(self) -> None:
        """Give up what is out, and the connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._client is not None:
            await self._client.close()

    # Learning the model

    async def _ask(self, question: Any) -> Any:
        """What the server says; one sentence where it does not."""
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
                f"{self._url}: the server does not list its models: name one behind the port"
            ) from error
        models = index.get("models", []) if self._is_grpc else index
        names = sorted({each["name"] for each in models})
        if len(names) != 1:
            there = ", ".join(names) or "none"
            raise ConfigError(f"{self._url}: name one of its models behind the port: {there}")
        return str(names[0])

    async def _config(self) -> dict[str, Any]:
        """The server's configuration of the model; empty where it has none to tell."""
        try:
            answer = await self._ask(self._client.get_model_config(self._model, **self._json()))
        except ConfigError:
            return {}
        config: dict[str, Any] = answer.get("config", {}) if self._is_grpc else answer
        return config

    def _info(self, metadata: Any, config: dict[str, Any], utils: Any) -> TargetInfo:
        # gRPC has its 64-bit numbers as text, in JSON.
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
                raise ConfigError(f"{self._url}: input {each['name']!r} is {each['datatype']}")
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
        """The client's form of the tensors, kept: the same objects are sent again and again."""
        kept = self._encoded.get(id(inputs))
        if kept is not None:
            return kept[1]
        encoded = []
        to_datatype = require("tritonclient.utils", "load").np_to_triton_dtype
        for name, array in inputs.items():
            tensor = self._triton.InferInput(name, array.shape, to_datatype(array.dtype))
            encoded.append(tensor.set_data_from_numpy(array))
        if len(self._encoded) >= _MOST_KEPT:
            self._encoded.clear()
        # With the tensors themselves, or another object could get their id.
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
    return f"{type(error).__name__}: {error}".strip(": ")[:_MOST_TEXT]
