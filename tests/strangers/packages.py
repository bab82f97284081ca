"""Prints the requirements of the extra `strangers`, one a line, as pip reads them."""

from __future__ import annotations

from importlib.metadata import requires

from packaging.requirements import Requirement

__all__ = ["requirements"]

EXTRA = "strangers"


def requirements() -> list[str]:
    """The packages of the extra that are for this Python, without the marks of the extra."""
    found = [Requirement(each) for each in requires("qaic-sched") or []]
    return [
        f"{each.name}{each.specifier}"
        for each in found
        if each.marker
        and each.marker.evaluate({"extra": EXTRA})
        and not each.marker.evaluate({"extra": ""})
    ]


if __name__ == "__main__":
    print("\n".join(requirements()))
