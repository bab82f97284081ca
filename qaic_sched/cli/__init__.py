"""The command `qaic-sched`: from its arguments to its exit status.

Rules of this folder:
- Each command module has one function named after the command, which typer calls. It separates
  computing from printing: results go to stdout, everything else to stderr as `qaic-sched: …` lines.
- A command raises a `SchedulerError`, which `main` prints in one line.
"""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING

from qaic_sched.errors import ConfigError, InputError, InternalError, SchedulerError
from qaic_sched.extras import require

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status; `argv` defaults to the process's arguments.

    0: success. 1: the run failed. 2: wrong arguments, configuration or input. 130: Ctrl-C.
    """
    try:
        for package in ("typer", "rich"):
            require(package, "cli", needed_by="the command line")
    except ConfigError as error:
        print(f"qaic-sched: {error}", file=sys.stderr)
        return 2
    return _run(argv)


def _run(argv: Sequence[str] | None) -> int:
    from qaic_sched.cli.app import command
    from qaic_sched.cli.output import log_on_stderr, say

    status = 0
    try:
        with log_on_stderr():
            command.main(None if argv is None else list(argv), prog_name="qaic-sched")
    except SystemExit as end:
        status = int(end.code or 0)
    except InternalError:
        traceback.print_exc()
        status = 1
    except SchedulerError as error:
        say(str(error))
        status = 2 if isinstance(error, (ConfigError, InputError)) else 1
    return status
