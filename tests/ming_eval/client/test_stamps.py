"""Receive lag from kernel stamps: the arithmetic by hand, and the real thing over a socket."""

from __future__ import annotations

import asyncio
import time

import pytest

from ming_eval.client.stamps import IS_SUPPORTED, SO_TIMESTAMPNS, ReceiveStamps
from tests.fakes import FakeServer, Script
from tests.ming_eval.client.helpers import LOOPS, ask, client_of, run, send_all, text_of, words

needs_linux = pytest.mark.skipif(not IS_SUPPORTED, reason="the kernel stamps arrivals on 64-bit Linux only")


def stamp_of(wall_s: float) -> tuple[int, int, bytes]:
    seconds = int(wall_s)
    nanoseconds = round((wall_s - seconds) * 1e9)
    return 1, SO_TIMESTAMPNS, seconds.to_bytes(8, "little") + nanoseconds.to_bytes(8, "little")


def test_lag_is_user_stamp_less_kernel_stamp_on_one_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's clock shows the wall clock less 1000 s; bytes came at wall 1100.25 and were read at 100.5."""
    monkeypatch.setattr(time, "time", lambda: 1100.0)
    stamps = ReceiveStamps(lambda: 100.0)
    stamps.restart()
    stamps.add([stamp_of(1100.25)], 100.5)
    assert stamps.lags_s() == pytest.approx([0.25], abs=1e-6)


def test_drift_of_the_clocks_is_reported_and_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within 10 s the wall clock gains 2 ms: half of it is known to belong to an arrival in the middle."""
    now_s = 0.0
    monkeypatch.setattr(time, "time", lambda: 1000.0 + now_s * 1.0002)
    stamps = ReceiveStamps(lambda: now_s)
    stamps.restart()
    stamps.add([stamp_of(1000.0 + 5.0 * 1.0002 - 0.004)], 5.0)
    now_s = 10.0
    stamps.sample_offset()
    assert stamps.drift_s == pytest.approx(-0.002)
    assert stamps.lags_s() == pytest.approx([0.004], abs=1e-6)


def test_other_ancillary_data_is_no_stamp() -> None:
    stamps = ReceiveStamps()
    stamps.restart()
    stamps.add([(1, 29, bytes(16))], 0.0)
    assert stamps.lags_s() == []


def test_restart_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    stamps = ReceiveStamps()
    stamps.restart()
    stamps.add([stamp_of(time.time())], time.perf_counter())
    assert len(stamps.lags_s()) == 1
    stamps.restart()
    assert stamps.lags_s() == []


@needs_linux
@pytest.mark.slow
def test_a_blocked_client_sees_how_long_bytes_lay_in_the_kernel() -> None:
    """The server is a thread of its own: what it sends while the client sleeps waits for the client."""
    with FakeServer.in_thread(Script(gap_s=0.01)) as server:

        async def play() -> list[float]:
            async with client_of(server) as client:
                client.receive_stamps.restart()
                asyncio.get_running_loop().call_later(0.05, lambda: time.sleep(0.3))
                await client.send(ask(max_tokens=8))  # its last token is written about 0.1 s after the request
                return client.receive_stamps.lags_s()

        assert max(run(play())) > 0.1


@needs_linux
def test_a_sample_of_a_pool_is_stamped_and_all_of_it_answers() -> None:
    async def play() -> tuple[int, list[str]]:
        async with FakeServer(Script()) as server, client_of(server, connections=40) as client:
            exchanges = await send_all(client, [ask(str(i), max_tokens=3) for i in range(80)], 40)
            return sum(each.is_stamped for each in client._open), [text_of(exchange) for exchange in exchanges]

    num_stamped, texts = run(play())
    assert num_stamped == 3  # one in sixteen, rounded up
    assert texts == [words(3)] * 80


@pytest.mark.parametrize("loop", LOOPS)
def test_a_request_larger_than_the_socket_buffers_arrives_whole(loop: str) -> None:
    text = "x" * 20_000_000

    async def play() -> tuple[str, int]:
        async with FakeServer(Script()) as server, client_of(server) as client:
            exchange = await client.send(ask(text, max_tokens=2))
            return text_of(exchange), len(server.chats[0].raw_body)

    said, num_bytes = run(play(), loop)
    assert said == words(2)
    assert num_bytes > 20_000_000
