"""A process that checks cases: it reads their names and writes their verdicts, line by line.

Every line of its output is JSON: first what begins, then the verdict. Whoever reads it knows which
case killed the process, or never ends.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
import traceback
from pathlib import Path

from tests.strangers.suite_cases import all_cases
from tests.strangers.suite_check import Verdict, check_case

MEMORY_BYTES = 12 << 30
"""Beyond this a case gets `MemoryError` rather than the machine's memory."""
TRIALS = {"!abort": os.abort, "!sleep": lambda: time.sleep(3600)}
"""Cases that end the process, or never end: for the tests of the one who reads this."""


def main() -> None:
    """Check the cases named in the lines of standard input, each a mode and a name."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    jobs = [line.split(maxsplit=1) for line in sys.stdin.read().splitlines()]
    cases = all_cases() if any(not name.startswith("!") for _, name in jobs) else {}
    for mode, name in jobs:
        _say(case=name, mode=mode)
        if name in TRIALS:
            TRIALS[name]()
        with tempfile.TemporaryDirectory() as folder:
            os.environ["XDG_CACHE_HOME"] = folder
            try:
                verdict = check_case(cases[name], Path(folder), mode)
            except Exception:
                verdict = Verdict("the test itself", traceback.format_exc())
        _say(
            case=name,
            mode=mode,
            verdict=verdict.verdict,
            detail=verdict.detail,
            is_batched=verdict.is_batched,
        )


def _say(**what: object) -> None:
    # Not `print`, whose buffer would be lost with the process.
    os.write(OUT, (json.dumps(what) + "\n").encode())


if __name__ == "__main__":
    OUT = os.dup(1)
    os.dup2(2, 1)  # what libraries print is no verdict
    main()
