"""Runs a script that uses `import qaic`, unchanged: `python -m qaic_sched.compat SCRIPT [ARGS…]`.

Rules of the file:
- The script runs as it would under `python SCRIPT`: arguments, paths, tracebacks, exit status. Our
  own messages go to stderr.
- A script for cards runs without one: its devices are then those of the CPU backend, where each
  device id needs a core. The error for an id beyond them has the number of cores.
- The vendor's low-level `qaicrt` is not provided. Processes that the script starts are ordinary
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
    """Run a script with its arguments as `__main__` and return 0; its exceptions pass through.

    Returns 2 if there is no script. This changes the process for good: modules, paths and arguments
    are those of the script from then on.
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
    logger.propagate = False  # else a script that configures logging would show our lines twice
    with log_on_stderr():
        runpy.run_path(script, run_name="__main__")
    return 0


def install() -> None:
    """Make `import qaic` and `from qaic.session import Session` find our `Session`."""
    for name in ("qaic", "qaic.session"):
        module = module_from_spec(ModuleSpec(name, None, is_package=True))
        vars(module)["Session"] = make_session
        sys.modules[name] = module
    vars(sys.modules["qaic"])["session"] = sys.modules["qaic.session"]


def make_session(
    model_path: str | Path, *, options_path: str | Path | None = None, **options: object
) -> Session:
    """Make a `Session` as the vendor's factory function `qaic.Session` does.

    `backend="aic"` means `auto`: a card if one is ready, else the CPU.
    """
    config = make_config(model_path, options_path=options_path, **options)
    if config.backend == "aic":
        logger.info("backend: aic here means a card if one is ready, else the CPU")
        config = msgspec.structs.replace(config, backend="auto")
    return Session.of(config)


def _show_from(
    script: str,
) -> Callable[[type[BaseException], BaseException, TracebackType | None], Any]:
    """Return an excepthook that shows tracebacks from the script's first frame on."""

    def show(
        kind: type[BaseException], error: BaseException, traceback: TracebackType | None
    ) -> None:
        while traceback is not None and traceback.tb_frame.f_code.co_filename != script:
            traceback = traceback.tb_next
        sys.__excepthook__(kind, error.with_traceback(traceback), traceback)

    return show


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
