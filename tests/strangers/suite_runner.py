"""Runs cases in worker processes, one at a time; a case that kills one costs only its verdict."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["Finding", "run_cases"]

ROOT = Path(__file__).parents[2]

Job = tuple[str, str]
"""Mode (see `suite_check`) and the case's name."""


@dataclass(frozen=True)
class Finding:
    """The verdict on one case in one mode."""

    case: str
    mode: str
    verdict: str
    detail: str = ""
    is_batched: bool = False

    def __str__(self) -> str:
        return f"{self.case} ({self.mode}): {self.verdict}; {self.detail}"


def run_cases(
    jobs: Iterable[Job], *, limit_s: float = 60.0, start_s: float = 120.0
) -> list[Finding]:
    """Check all; what takes longer than `limit_s` is a "hang", what ends the process a "crash"."""
    left = list(jobs)
    findings: list[Finding] = []
    while left:
        done = _run_some(left, limit_s, start_s)
        findings += done
        left = left[len(done) :]
    return findings


def _run_some(jobs: Sequence[Job], limit_s: float, start_s: float) -> list[Finding]:
    """Check jobs in a new process until it ends or has to be ended; at least the first of them."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "tests.strangers.suite_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n".join(f"{mode} {name}" for mode, name in jobs))
    process.stdin.close()
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(process.stdout, lines))
    reader.start()
    try:
        return _collect(jobs, process, lines, limit_s, start_s)
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stdout.close()


def _collect(
    jobs: Sequence[Job],
    process: subprocess.Popen[str],
    lines: queue.SimpleQueue[str],
    limit_s: float,
    start_s: float,
) -> list[Finding]:
    findings: list[Finding] = []
    has_begun = False
    while len(findings) < len(jobs):
        mode, name = jobs[len(findings)]
        try:
            line = lines.get(timeout=limit_s if has_begun else start_s)
        except queue.Empty:
            return [*findings, Finding(name, mode, "hang", f"no verdict within {limit_s:g} s")]
        if not line:
            return [*findings, Finding(name, mode, "crash", f"exit status {process.wait()}")]
        has_begun = True
        said = json.loads(line)
        if "verdict" in said:
            findings.append(Finding(**said))
    return findings


def _read(stream: IO[str], lines: queue.SimpleQueue[str]) -> None:
    for line in stream:
        lines.put(line)
    lines.put("")
