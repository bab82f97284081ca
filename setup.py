"""Builds the package; with QAIC_SCHED_COMPILE=1 mypyc makes C of its hot path: same code, faster.

Rules of this file:
- Without the variable nothing is compiled, and nothing is needed for it.
- The sources lie beside what is made of them: a Python that cannot load that runs those.
"""

import os
import re
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

MYPY = re.findall(r'"(mypy\b[^"]*)"', Path("pyproject.toml").read_text(encoding="utf-8"))[0]
"""The requirement that checks the types: whoever checked them is to compile them."""

AS_PYTHON = {"events.py", "values.py"}
"""Modules of the core whose classes others look into: compiled, they do not keep annotations."""
BESIDE_CORE = (
    "tensors.py",
    "metrics/histogram.py",
    "metrics/records.py",
    "backends/sim/completions.py",
    "backends/sim/executable.py",
    "scheduler/pool.py",
    "scheduler/request.py",
    "scheduler/shell.py",
    "scheduler/front.py",
)
"""What else a request passes on its way."""


class BuildHotPath(build_ext):
    """Says in one sentence what is missing, and leaves the source tree as it is."""

    def run(self) -> None:
        """Compile, away from the sources."""
        if self.inplace:
            sys.exit("QAIC_SCHED_COMPILE=1 is not for editable installs: they run the sources")
        try:
            super().run()
        except (BaseError, CCompilerError) as error:
            sys.exit(
                "QAIC_SCHED_COMPILE=1 needs a C compiler and Python's headers (Debian, Ubuntu: "
                f"apt-get install gcc python3-dev), or leave it out to run the sources: {error}"
            )


def hot_path() -> list[Extension]:
    """The modules that a request passes, as C."""
    if {"egg_info", "dist_info"} & {*sys.argv}:
        return []  # metadata are the same without; mypyc may be installed only after them
    try:
        from mypyc.build import mypycify
    except ImportError:
        sys.exit(f'QAIC_SCHED_COMPILE=1 needs mypyc: pip install "{MYPY}", or leave it out')
    package = Path("qaic_sched")
    core = [each for each in package.glob("core/*.py") if each.name not in AS_PYTHON]
    modules = sorted(map(str, [*core, *(package / each for each in BESIDE_CORE)]))
    # Errors of these only: the packages that the rest needs may not be here yet.
    checked = [*modules, "--follow-imports=silent"]
    return mypycify(checked, debug_level="0", group_name="qaic_sched")


if os.environ.get("QAIC_SCHED_COMPILE") == "1":
    setup(setup_requires=[MYPY], ext_modules=hot_path(), cmdclass={"build_ext": BuildHotPath})
else:
    setup()
