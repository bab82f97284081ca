"""Runs a script that says `import qaic`, unchanged: `python -m qaic_sched.compat SCRIPT [ARGS…]`.

Rules of the file:
- The script sees what it would see under `python SCRIPT`: arguments, paths, tracebacks, exit
  status. What we have to say goes to stderr.
- A script for cards runs without one: its devices are then those of the CPU backend, where each
  device id needs a core; the error for an id beyond them says how many there are.
- The vendor's low-level `qaicrt` is not provided, and processes that the script starts are ordinary
  Python again, without `qaic`.
"""

from __future__ import annotations

import logging
import os
import runpy
import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from typing import TYPE_CHECKING

import msgspec

from qaic_sched.cli.output import log_on_stderr
from qaic_sched.config.layers import make_config
from qaic_sched.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Any

__all__ = ["install", "main", "make_session"]

logger = logging.getLogger("qaic_sched")

USAGE = "usage: python -m qaic_sched.compat SCRIPT [ARGS...]"


def main(argv: Sequence[str]) -> int:
    """Run a script with its arguments as `__main__`, and return 0; all that it raises passes.

    Returns 2 where there is no script. Changes the process for good: modules, paths and arguments
    are the script's from here on.
    """
    if not argv or argv[0].startswith("-"):
        print(USAGE, file=sys.stderr)
        return 2
    script = os.path.abspath(argv[0])
    try:
        with open(script, "rb"):
            pass
    except OSError as error:
        print(f"{USAGE}\ncan't open file {script!r}: {error.strerror}", file=sys.stderr)
        return 2
    install()
    sys.argv = [script, *argv[1:]]
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = os.path.dirname(os.path.realpath(script))
    sys.excepthook = _show_from(script)
    logger.propagate = False  # a script that configures logging would show our lines twice
    with log_on_stderr():
        runpy.run_path(script, run_name="__main__")
    return 0


def install() -> None:
    """From here on `import qaic` and `from qaic.session import Session` find our Session."""
    for name in ("qaic", "qaic.session"):
        module = module_from_spec(ModuleSpec(name, None, is_package=True))
        vars(module)["Session"] = make_session
        sys.modules[name] = module
    vars(sys.modules["qaic"])["session"] = sys.modules["qaic.session"]


def make_session(
    model_path: str | Path, *, options_path: str | Path | None = None, **options: object
) -> Session:
    """What the vendor's factory function `qaic.Session` does.

    `backend="aic"` counts as `auto`: a card if one is ready, else the CPU.
    """
    config = make_config(model_path, options_path=options_path, **options)
    if config.backend == "aic":
        logger.info("backend: aic means here: a card if one is ready, else the CPU")
        config = msgspec.structs.replace(config, backend="auto")
    return Session.of(config)


def _show_from(
    script: str,
) -> Callable[[type[BaseException], BaseException, TracebackType | None], Any]:
    """An excepthook that shows tracebacks from the script's own first frame on."""

    def show(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        while traceback is not None and traceback.tb_frame.f_code.co_filename != script:
            traceback = traceback.tb_next
        sys.__excepthook__(kind, error.with_traceback(traceback), traceback)

    return show


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
