"""Build the package. QAIC_SCHED_COMPILE=1 compiles its hot path to C with mypyc.

Rules of this file:
- Without the variable, nothing is compiled and mypyc is not needed.
- The package keeps the sources of compiled modules, for a Python that cannot load the binaries.
"""

import os
import re
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

MYPY = re.findall(r'"(mypy\b[^"]*)"', Path("pyproject.toml").read_text(encoding="utf-8"))[0]
"""The mypy requirement of the `dev` extra: mypyc must match the mypy that checks the types."""

AS_PYTHON = {"events.py", "values.py"}
"""Modules of the core that stay Python, because compiled classes lose their annotations."""
BESIDE_CORE = (
    "tensors.py",
    "metrics/histogram.py",
    "metrics/records.py",
    "backends/sim/completions.py",
    "backends/sim/executable.py",
    "scheduler/arguments.py",
    "scheduler/failures.py",
    "scheduler/heartbeat.py",
    "scheduler/pool.py",
    "scheduler/request.py",
    "scheduler/shell.py",
    "scheduler/front.py",
)
"""The modules of the hot path outside the core."""


class BuildHotPath(build_ext):
    """Compiles into the build folder, and reports what is missing in one sentence."""

    def run(self) -> None:
        """Compile, but never into the source tree."""
        if self.inplace:
            sys.exit("QAIC_SCHED_COMPILE=1: editable installs run the sources: remove the variable")
        try:
            super().run()
        except (BaseError, CCompilerError) as error:
            sys.exit(
                "QAIC_SCHED_COMPILE=1 needs a C compiler and Python's headers (Debian, Ubuntu: "
                f"apt-get install gcc python3-dev), or remove it to run the sources: {error}"
            )


def hot_path() -> list[Extension]:
    """Return the extension modules of the hot path."""
    if {"egg_info", "dist_info"} & {*sys.argv}:
        return []  # metadata do not depend on them, and mypyc may not be installed yet
    try:
        from mypyc.build import mypycify
    except ImportError:
        sys.exit(f'QAIC_SCHED_COMPILE=1 needs mypyc: pip install "{MYPY}", or remove the variable')
    package = Path("qaic_sched")
    core = [each for each in package.glob("core/*.py") if each.name not in AS_PYTHON]
    modules = sorted(map(str, [*core, *(package / each for each in BESIDE_CORE)]))
    # Report type errors of these modules only: packages that others import may be missing.
    checked = [*modules, "--follow-imports=silent"]
    return mypycify(checked, debug_level="0", group_name="qaic_sched")


if os.environ.get("QAIC_SCHED_COMPILE") == "1":
    setup(setup_requires=[MYPY], ext_modules=hot_path(), cmdclass={"build_ext": BuildHotPath})
else:
    setup()
