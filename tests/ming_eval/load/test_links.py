"""The way to a worker process of this host."""

from __future__ import annotations

import asyncio

import pytest

from ming_eval.load import interrupt
from ming_eval.load.links import LocalLink

pytestmark = pytest.mark.slow  # a real process


def test_what_is_sent_to_a_process_that_has_ended_is_lost_without_a_word() -> None:
    """On uvloop, which writes to no pipe whose other end is gone."""

    async def go() -> int | None:
        link = LocalLink("this")
        await link.start()
        while await link.receive():
            pass
        stdin = link._running.stdin
        assert stdin is not None
        async with asyncio.timeout(60):
            while not stdin.is_closing():
                await asyncio.sleep(0.01)
        await link.send(b"{}")
        return await link.stop()

    assert interrupt.run(go()) == 0
