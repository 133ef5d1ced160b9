"""Waiting for a condition rather than for a time; the limits are against hanging."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
LIMIT_S = 120.0


def wait_for(condition: Callable[[], T], limit_s: float = LIMIT_S) -> T:
    """The first true value of `condition`.

    Raises:
        AssertionError: there was none in time.
    """
    end_s = time.monotonic() + limit_s
    while not (value := condition()):
        assert time.monotonic() < end_s, f"it did not come about in {limit_s:g} s"
        time.sleep(0.01)
    return value


async def until(condition: Callable[[], object], limit_s: float = LIMIT_S / 2) -> None:
    """Wait until `condition` is true, with the event loop going on.

    Raises:
        TimeoutError: it was not in time.
    """
    async with asyncio.timeout(limit_s):
        while not condition():
            await asyncio.sleep(0.001)
