"""The event loop of a measurement, and how Ctrl-C ends it: once to stop and keep what there is, twice to leave.

A request to end (SIGTERM) and a terminal that goes away (SIGHUP) do the same as Ctrl-C.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

_STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_HANG_UP = getattr(signal, "SIGHUP", None)
_FORCED_EXIT_CODE = 130


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` on uvloop where it is installed, on asyncio's own loop elsewhere."""
    try:
        import uvloop
    except ImportError:  # not made for Windows
        return asyncio.run(main)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


async def run_until_stopped(work: Coroutine[Any, Any, None], *, on_forced_exit: Callable[[], None]) -> bool:
    """Run `work`; True when it ended, False when a signal cancelled it.

    A second signal calls `on_forced_exit` and ends this process at once, whatever it is doing; a second SIGHUP does
    not, since the kernel and the shell may each send one.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    numbers = [number for number in _STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup

    terminal = [
        stream.fileno() for stream in (sys.__stdout__, sys.__stderr__) if stream is not None and stream.isatty()
    ]

    def leave(number: int, _frame: FrameType | None) -> None:
        if number == _HANG_UP:
            return
        on_forced_exit()
        os._exit(_FORCED_EXIT_CODE)

    def stop(stopped_by: int) -> None:
        if stopped_by == _HANG_UP:
            _let_go(terminal)
        task.cancel()
        for number in numbers:
            loop.remove_signal_handler(number)
            signal.signal(number, leave)

    for number in numbers:
        loop.add_signal_handler(number, stop, number)
    try:
        await asyncio.wait([task])
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)
    if task.cancelled():
        return False
    task.result()  # raises what it raised
    return True


def _let_go(terminal: Sequence[int]) -> None:
    """Point descriptors of a terminal that is gone to nowhere: what is still printed must not fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for fd in terminal:
        os.dup2(nowhere, fd)
    os.close(nowhere)
