"""Stops a child process for a while, as `docker pause` and a suspended machine do."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper

from tests.models import FLOAT, save_model, tensor
from tests.strangers.coupled_models import node

__all__ = ["run_child", "run_paused", "slow_mean_model"]

ROOT = Path(__file__).parents[2]


def slow_mean_model(path: Path, turns: int = 60_000) -> str:
    """The mean of each row of `data`, twice, after a loop that takes some ten milliseconds."""
    condition = tensor("go", [], kind=9)
    body = helper.make_graph(
        [node("Identity", ["go"], ["on"]), node("Add", ["before", "nothing"], ["after"])],
        "body",
        [tensor("turn", [], kind=7), condition, tensor("before", [1])],
        [tensor("on", [], kind=9), tensor("after", [1])],
    )
    nodes = [
        node("Loop", ["turns", "yes", "nothing"], ["zero"], body=body),
        node("ReduceMean", ["data"], ["one"], axes=[1], keepdims=1),
        node("Add", ["one", "zero"], ["sum"]),
        node("Concat", ["sum", "sum"], ["mean"], axis=1),
    ]
    constants = {
        "turns": np.array(turns, np.int64),
        "yes": np.array(True),
        "nothing": np.zeros(1, np.float32),
    }
    inputs, outputs = [tensor("data", ["N", 4], FLOAT)], [tensor("mean", ["N", 2])]
    return save_model(path, nodes, inputs, outputs, constants)


def run_paused(model: str, pauses_s: Sequence[float]) -> dict[str, Any]:
    """Let a child serve the model, stop it for each of these times, and return what it says."""
    return run_child(["tests.strangers.paused_child", model], pauses_s, 0.7)


def run_child(module: Sequence[str], pauses_s: Sequence[float], between_s: float) -> dict[str, Any]:
    """Run a module with its arguments, stopping it now and then; what it says at the end."""
    child = subprocess.Popen(
        [sys.executable, "-m", *module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == "running\n"
        for pause_s in pauses_s:
            if pause_s:
                child.send_signal(signal.SIGSTOP)
                time.sleep(pause_s)
                child.send_signal(signal.SIGCONT)
            time.sleep(between_s)
        child.stdin.close()
        said = child.stdout.readline()
        assert said, f"the child ended without a word: exit status {child.wait()}"
        found: dict[str, Any] = json.loads(said)
        return found
    finally:
        child.kill()
        child.stdout.close()
        child.stdin.close()
        child.wait()
