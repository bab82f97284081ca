"""Tests of Ctrl-C, and of the event loop of a command."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys

import pytest

from qaic_sched.cli.ctrl_c import CtrlC, run_async


async def press() -> None:
    """Send SIGINT to this process and let the loop handle it."""
    signal.raise_signal(signal.SIGINT)
    for _ in range(10):
        await asyncio.sleep(0)


async def loop_module() -> str:
    """Return the package of the running loop."""
    return type(asyncio.get_running_loop()).__module__.partition(".")[0]


def test_uvloop_is_used_if_installed() -> None:
    """A command runs on uvloop if it is installed."""
    pytest.importorskip("uvloop")
    assert run_async(loop_module()) == "uvloop"


def test_asyncio_is_used_without_uvloop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command runs on asyncio's own loop if uvloop is missing."""
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert run_async(loop_module()) == "asyncio"


@pytest.mark.parametrize("has_uvloop", [True, False])
def test_the_first_press_only_asks(has_uvloop: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """One SIGINT sets `is_pressed` and interrupts nothing."""
    if not has_uvloop:
        monkeypatch.setitem(sys.modules, "uvloop", None)

    async def press_once() -> bool:
        with CtrlC() as ctrl_c:
            assert not ctrl_c.is_pressed
            await press()
            return ctrl_c.is_pressed

    assert run_async(press_once())


def test_on_press_is_called_once() -> None:
    """`on_press` is called on the first press only."""
    pressed = []

    async def press_twice() -> None:
        with CtrlC(lambda: pressed.append("pressed")):
            await press()
            with pytest.raises(asyncio.CancelledError):
                await press()

    run_async(press_twice())
    assert pressed == ["pressed"]


def test_the_second_press_cancels() -> None:
    """A second SIGINT cancels the task; a third changes nothing."""
    steps = []

    async def press_thrice() -> None:
        with CtrlC():
            await press()
            steps.append("asked")
            try:
                await press()
            except asyncio.CancelledError:
                steps.append("cancelled")
                await press()
                steps.append("ended")
                raise

    with pytest.raises(asyncio.CancelledError):
        run_async(press_thrice())
    assert steps == ["asked", "cancelled", "ended"]


STUBBORN = """
import asyncio, signal
from qaic_sched.cli.ctrl_c import (CtrlC, run_async)

async def main():
    with CtrlC():
        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(0.01)
        signal.raise_signal(signal.SIGINT)
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                pass

print("begun", end="")
run_async(main())
"""


@pytest.mark.slow
def test_a_task_that_ignores_cancellation_is_ended() -> None:
    """The process exits a second after the second press, even if its task does not end."""
    process = subprocess.run([sys.executable, "-c", STUBBORN], capture_output=True, timeout=60)
    assert process.returncode == 130
    assert process.stdout == b"begun"
