"""A stand-in for the vendor's compiler: it checks its arguments and writes a stand-in QPC.

The environment variable `STANDIN_COMPILER` makes it misbehave: `fail`, `hang`, `forget` (writes
nothing) or `litter` (writes more files than needed). It appends its process id and its arguments,
as a line of JSON, to the file `STANDIN_COMPILER_LOG`.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path

__all__ = ["install", "main"]

NEEDED = ("-aic-hw", "-aic-hw-version=2.0", "-compile-only")
FLAG = re.compile(r"-[a-z][a-zA-Z0-9-]*(=.+)?")


def install(folder: Path, name: str = "qaic-compile") -> Path:
    """Install the stand-in in `folder` under the vendor's name; the path of its log."""
    root = Path(__file__).parents[2]
    folder.mkdir(exist_ok=True)
    program, log = folder / name, folder / "log"
    program.write_text(
        f"#!/bin/sh\nexport PYTHONPATH={root} STANDIN_COMPILER_LOG={log}\n"
        f'exec {sys.executable} -m tests.standin.qaic_compile "$@"\n'
    )
    program.chmod(0o755)
    return log


def main(arguments: list[str]) -> int:
    """Compile with these arguments; the exit status."""
    with Path(os.environ["STANDIN_COMPILER_LOG"]).open("a") as log:
        print(json.dumps([os.getpid(), *arguments]), file=log)
    mood = os.environ.get("STANDIN_COMPILER", "")
    if mood == "hang":
        time.sleep(60)
    problem = "the stand-in was told to fail" if mood == "fail" else _problem(arguments)
    if problem:
        print("\n".join(f"line {number}" for number in range(50)))
        print(f"error: {problem}", file=sys.stderr)
        return 3
    if mood != "forget":
        _write(arguments, is_littering=mood == "litter")
    return 0


def _problem(arguments: list[str]) -> str | None:
    """A problem that the real compiler would report too, as far as is known."""
    strange = [each for each in arguments if not FLAG.fullmatch(each)]
    missing = [each for each in NEEDED if each not in arguments]
    if strange or missing:
        return f"strange arguments {strange}, missing arguments {missing}"
    if not Path(_value(arguments, "-m")).is_file():
        return "there is no such model"
    return "the binary dir exists" if Path(_value(arguments, "-aic-binary-dir")).exists() else None


def _value(arguments: list[str], flag: str) -> str:
    return next((each.partition("=")[2] for each in arguments if each.startswith(f"{flag}=")), "")


def _write(arguments: list[str], is_littering: bool) -> None:
    from tests.standin.qpc import write_qpc

    folder = Path(_value(arguments, "-aic-binary-dir"))
    batch = _value(arguments, "-onnx-define-symbol").partition(",")[2] or "8"
    cores = _value(arguments, "-aic-num-cores") or "1"
    write_qpc(folder, batch_sizes=(int(batch),), cores=int(cores))
    if is_littering:
        (folder / "report.txt").write_text("all went well")
        (folder / "stages").mkdir()
        (folder / "stages" / "first.txt").write_text("it began")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
