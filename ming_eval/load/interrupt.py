"""The event loop of a measurement, and how Ctrl-C ends it: once to stop and keep what there is, twice to leave."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
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

    A second signal calls `on_forced_exit` and ends this process at once, whatever it is doing.
    """
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)

    def leave(_number: int, _frame: FrameType | None) -> None:
        on_forced_exit()
        os._exit(_FORCED_EXIT_CODE)

    def stop() -> None:
        task.cancel()
        for number in _STOP_SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, leave)

    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, stop)
    try:
        await asyncio.wait([task])
    finally:
        for number in _STOP_SIGNALS:
            loop.remove_signal_handler(number)
    if task.cancelled():
        return False
    task.result()  # raises what it raised
    return True
