"""A KServe v2 server that computes row means: `python -m tests.loadgen.kserve_server --help`.

It prints its port, and can be slow, fail requests, or die after a number of requests.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["running"]

SHAPE = [-1, 4]
ROOT = Path(__file__).parents[2]


@contextmanager
def running(kind: str = "http", **switches: Any) -> Iterator[str]:
    """Run the server in another process; yield its URL without a model."""
    command = [sys.executable, "-m", "tests.loadgen.kserve_server", "--kind", kind]
    for name, value in switches.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        yield f"{kind}://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.kill()
        process.communicate()


class Model:
    """The answers and faults of the server, for both protocols."""

    def __init__(self, switches: argparse.Namespace) -> None:
        self.switches = switches
        self.count = 0
        self.failed = 0

    async def means(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the mean of each row; raise `ValueError` for the share that fails."""
        self.count += 1
        if self.count > self.switches.die_after:
            os._exit(1)
        await asyncio.sleep(self.switches.delay)
        if self.failed < self.count * self.switches.error_share:
            self.failed += 1
            raise ValueError("this one was to fail")
        return rows.mean(axis=1, dtype=np.float64).astype(np.float32)[:, None]

    def metadata(self) -> dict[str, Any]:
        """Return the metadata of a model."""
        return {
            "name": "means",
            "versions": ["1"],
            "platform": "test",
            "inputs": [{"name": "data", "datatype": "FP32", "shape": SHAPE}],
            "outputs": [{"name": "mean", "datatype": "FP32", "shape": [-1, 1]}],
        }


async def serve_http(model: Model) -> int:
    """Serve over HTTP; return the port."""
    from aiohttp import web

    def known(request: web.Request) -> None:
        if request.match_info["model"] not in model.switches.models.split(","):
            text = json.dumps({"error": f"no model {request.match_info['model']}"})
            raise web.HTTPNotFound(text=text)

    async def live(request: web.Request) -> web.Response:
        return web.Response()

    async def index(request: web.Request) -> web.Response:
        return web.json_response([{"name": name} for name in model.switches.models.split(",")])

    async def metadata(request: web.Request) -> web.Response:
        known(request)
        return web.json_response(model.metadata())

    async def config(request: web.Request) -> web.Response:
        if not model.switches.max_batch_size:
            return web.json_response({"error": "no configuration"}, status=404)
        return web.json_response({"max_batch_size": model.switches.max_batch_size})

    async def infer(request: web.Request) -> web.Response:
        known(request)
        body = await request.read()
        end = int(request.headers["Inference-Header-Content-Length"])
        shape = json.loads(body[:end])["inputs"][0]["shape"]
        try:
            means = await model.means(np.frombuffer(body[end:], np.float32).reshape(shape))
        except ValueError as error:
            status = model.switches.error_status
            return web.json_response({"error": str(error)}, status=status)
        parameters = {"binary_data_size": means.nbytes}
        output = {"name": "mean", "datatype": "FP32", "shape": list(means.shape)}
        head = json.dumps({"outputs": [{**output, "parameters": parameters}]}).encode()
        length = {"Inference-Header-Content-Length": str(len(head))}
        return web.Response(body=head + means.tobytes(), headers=length)

    app = web.Application()
    app.router.add_get("/v2/health/live", live)
    app.router.add_post("/v2/repository/index", index)
    app.router.add_get("/v2/models/{model}", metadata)
    app.router.add_get("/v2/models/{model}/config", config)
    app.router.add_post("/v2/models/{model}/infer", infer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return int(runner.addresses[0][1])


async def serve_grpc(model: Model) -> int:
    """Serve over gRPC; return the port."""
    import grpc
    from google.protobuf.json_format import ParseDict
    from tritonclient.grpc import service_pb2 as pb
    from tritonclient.grpc import service_pb2_grpc

    class Service(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
        async def ServerLive(self, request: Any, context: Any) -> Any:
            return pb.ServerLiveResponse(live=True)

        async def RepositoryIndex(self, request: Any, context: Any) -> Any:
            names = model.switches.models.split(",")
            return ParseDict({"models": [{"name": n} for n in names]}, pb.RepositoryIndexResponse())

        async def ModelMetadata(self, request: Any, context: Any) -> Any:
            if request.name not in model.switches.models.split(","):
                await context.abort(grpc.StatusCode.NOT_FOUND, f"no model {request.name}")
            return ParseDict(model.metadata(), pb.ModelMetadataResponse())

        async def ModelConfig(self, request: Any, context: Any) -> Any:
            if not model.switches.max_batch_size:
                await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no configuration")
            config = {"config": {"max_batch_size": model.switches.max_batch_size}}
            return ParseDict(config, pb.ModelConfigResponse())

        async def ModelInfer(self, request: Any, context: Any) -> Any:
            rows = np.frombuffer(request.raw_input_contents[0], np.float32)
            try:
                means = await model.means(rows.reshape(request.inputs[0].shape))
            except ValueError as error:
                await context.abort(grpc.StatusCode.INTERNAL, str(error))
            output = {"name": "mean", "datatype": "FP32", "shape": list(means.shape)}
            response = ParseDict({"outputs": [output]}, pb.ModelInferResponse())
            response.raw_output_contents.append(means.tobytes())
            return response

    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(Service(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    Model.server = server  # type: ignore[attr-defined]  # the server ends with its last reference
    return int(port)


async def main() -> None:
    """Serve until the process ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kind", choices=["http", "grpc"], default="http")
    parser.add_argument("--models", default="means")
    parser.add_argument("--max-batch-size", type=int, default=8)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--error-share", type=float, default=0.0)
    parser.add_argument("--error-status", type=int, default=500)
    parser.add_argument("--die-after", type=float, default=float("inf"))
    switches = parser.parse_args()
    serve = serve_http if switches.kind == "http" else serve_grpc
    print(await serve(Model(switches)), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
