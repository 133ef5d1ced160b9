"""The life of a request: leaving clients, full queues, deadlines, slow readers, draining, and an engine that dies."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from engine.core.request import FinishReason, Output
from engine.inputs.fetch import MediaFetcher
from engine.inputs.media_pool import MediaPool
from engine.ipc import Failed, Ready
from engine.server import http, outputs
from engine.server.errors import unavailable
from engine.server.media import MediaLoader
from tests.engine.inputs.media_files import image_file
from tests.engine.server.endpoint import Endpoint, chat_body, decode_events, endpoint, on_loop
from tests.engine.server.fake_engine import INFO, TOKENIZER, FakeEngine, says
from tests.pressure.malformed_media import data_url

CHAT = "/v1/chat/completions"


def held(after: int = 2) -> FakeEngine:
    """An engine that stops in the middle of each answer until its gate opens."""
    return FakeEngine(says("Hello"), hold_after=after)


async def begun_stream(server: Endpoint, **fields: Any) -> aiohttp.ClientResponse:
    """A stream of which the first events have arrived."""
    response = await server.session.post(server.url + CHAT, json=chat_body(stream=True, **fields))
    assert response.status == 200
    return response


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("after", [0, 2])
@on_loop
async def test_client_that_leaves_frees_the_engine(stream: bool, after: int) -> None:
    """Before the first token and after it, streaming or not; the next request is served as ever."""
    engine = held(after)
    async with endpoint(engine) as server:
        task = asyncio.create_task(server.post(CHAT, chat_body(stream=stream, n=2)))
        await engine.until_running(2)
        await server.turn()
        task.cancel()
        await engine.until_idle()
        assert sorted(engine.aborted) == [1, 2]
        engine.gate.set()
        assert (await server.chat())["choices"][0]["message"]["content"] == "Hello"
        assert server.service.metrics.finished[FinishReason.ABORT] == 2


@on_loop
async def test_client_that_leaves_while_it_sends_costs_nothing() -> None:
    async with endpoint() as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        writer.write(b"Content-Length: 100\r\n\r\n{")
        await writer.drain()
        writer.close()
        assert (await server.chat())["choices"][0]["finish_reason"] == "stop"
        await server.service.drain(1.0)
        assert len(server.engine.requests) == 1


@on_loop
async def test_client_that_leaves_while_its_media_is_fetched() -> None:
    """The host that takes its time sees the connection close."""
    asked, left = asyncio.Event(), asyncio.Event()

    async def slow_host(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.set()
        await reader.read()
        left.set()
        writer.close()

    async def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    async with await asyncio.start_server(slow_host, "127.0.0.1", 0) as host, endpoint(is_ready=False) as server:
        server.engine.handle.receive(Ready(replace(INFO, modalities=("text", "image"))))
        server.service.open(TOKENIZER)
        fetcher = MediaFetcher(["slow.example"], resolve=resolve, is_allowed=lambda address: True)
        fetches = server.service.metrics.media_fetches
        server.service._media = MediaLoader(fetcher, MediaPool(num_workers=1), fetches)
        url = f"http://slow.example:{host.sockets[0].getsockname()[1]}/a.png"
        content = [{"type": "image_url", "image_url": {"url": url}}]
        body = {"messages": [{"role": "user", "content": content}]}
        task = asyncio.create_task(server.post(CHAT, body))
        await asked.wait()
        assert server.service.intake.num_requests == 1
        task.cancel()
        await left.wait()
        assert server.service.intake.num_requests == 0
        assert fetches == {"cancelled": 1}
        assert server.engine.requests == []


@on_loop
@pytest.mark.slow
async def test_decoders_that_do_not_start_are_the_servers_fault(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The request is told to come back, and when it does they may start."""
    (tmp_path / "numpy.py").write_text("raise SystemExit(3)\n", encoding="utf-8")
    async with endpoint(is_ready=False) as server:
        server.engine.handle.receive(Ready(replace(INFO, modalities=("text", "image"))))
        server.service.open(TOKENIZER)
        content = [{"type": "image_url", "image_url": {"url": data_url("image/png", image_file())}}]
        body = {"messages": [{"role": "user", "content": content}]}
        with monkeypatch.context() as patch:
            patch.setenv("PYTHONPATH", str(tmp_path))
            async with server.session.post(server.url + CHAT, json=body) as response:
                error = (await response.json())["error"]
                assert (response.status, error["type"], error["code"]) == (503, "server_error", "media_failed")
                assert response.headers["Retry-After"] == "5"
        assert server.service.intake.num_requests == 0
        assert (await server.post(CHAT, body))[0] == 200


@on_loop
async def test_full_queue_is_429_with_retry_after() -> None:
    """Two run and one may wait; a burst of twice that sees only 200 and 429, and the refused cost nothing."""
    engine = held(0)
    async with endpoint(engine, num_running=2, max_queue=1) as server:
        tasks = [asyncio.create_task(server.post(CHAT, chat_body())) for _ in range(3)]
        await engine.until_running(3)
        for _ in range(3):
            async with server.session.post(server.url + CHAT, json=chat_body()) as response:
                error = (await response.json())["error"]
                assert (response.status, error["type"], error["code"]) == (429, "rate_limit_error", "queue_full")
                assert 1 <= int(response.headers["Retry-After"]) <= 60
        engine.gate.set()
        assert [status for status, _ in await asyncio.gather(*tasks)] == [200] * 3
        assert len(engine.requests) == 3
        assert (await server.post(CHAT, chat_body()))[0] == 200


@on_loop
async def test_choices_count_as_sequences() -> None:
    async with endpoint(num_running=2, max_queue=2) as server:
        await server.chat(n=4)
        status, error = await server.refused(CHAT, chat_body(n=5))
        assert (status, error["param"]) == (400, "n")
        assert "at most 4" in error["message"]


@on_loop
async def test_waiting_prompt_tokens_are_limited() -> None:
    engine = held(0)
    async with endpoint(engine, max_queue_tokens=100) as server:
        first = asyncio.create_task(server.post("/v1/completions", {"prompt": [1] * 90}))
        await engine.until_running()
        assert (await server.refused("/v1/completions", {"prompt": [1] * 11}))[0] == 429
        second = asyncio.create_task(server.post("/v1/completions", {"prompt": [1] * 10}))
        await engine.until_running(2)
        engine.gate.set()
        assert [status for status, _ in await asyncio.gather(first, second)] == [200, 200]
        await server.complete([1] * 200)  # more than the limit, but nobody waits


@pytest.mark.parametrize("stream", [True, False])
@on_loop
async def test_deadline_before_the_first_token(stream: bool) -> None:
    engine = held(0)
    async with endpoint(engine, request_timeout_s=0.1) as server:
        status, reply = await server.post(CHAT, chat_body(stream=stream))
        assert (status, reply["error"]["type"], reply["error"]["code"]) == (504, "timeout_error", "request_timeout")
        await engine.until_idle()


@on_loop
async def test_deadline_within_a_stream_is_its_last_event() -> None:
    engine = held()
    async with endpoint(engine, request_timeout_s=0.6) as server:
        *events, error, done = await server.stream(CHAT, chat_body())
        assert len(events) == 3
        assert (error["error"]["code"], done) == ("request_timeout", "[DONE]")
        await engine.until_idle()


@on_loop
async def test_drain_lets_running_requests_finish() -> None:
    engine = held()
    async with endpoint(engine) as server:
        response = await begun_stream(server)
        drain = asyncio.create_task(server.service.drain(10.0))
        await server.turn()
        assert await server.get("/health") == (503, {"status": "draining"})
        status, reply = await server.post(CHAT, chat_body())
        assert (status, reply["error"]["code"]) == (503, "draining")
        assert not drain.done()
        engine.gate.set()
        *events, done = decode_events((await response.read()).decode())
        await drain
    assert (events[-1]["choices"][0]["finish_reason"], done) == ("stop", "[DONE]")


@on_loop
async def test_drain_ends_what_takes_too_long_with_one_error() -> None:
    engine = held()
    async with endpoint(engine) as server:
        response = await begun_stream(server)
        whole = asyncio.create_task(server.post(CHAT, chat_body()))
        await engine.until_running(2)
        await server.service.drain(0.05)
        *events, error, done = decode_events((await response.read()).decode())
        assert sorted(engine.aborted) == [1, 2]
        status, reply = await whole
    assert (error["error"]["code"], done) == ("draining", "[DONE]")
    assert sum("error" in event for event in events) == 0
    assert (status, reply["error"]["code"]) == (503, "draining")


@on_loop
async def test_request_that_came_before_the_drain_is_served() -> None:
    """Its body was still on its way when the signal came."""
    async with endpoint() as server:
        sending = await half_sent(server)
        drain = asyncio.create_task(server.service.drain(10.0))
        await server.turn()
        assert (await server.post(CHAT, chat_body()))[0] == 503
        status, reply = await sending.finish()
        assert (status, reply["choices"][0]["finish_reason"]) == (200, "stop")
        await drain


@on_loop
async def test_request_that_never_gets_ready_is_told_at_the_end_of_the_drain() -> None:
    async with endpoint() as server:
        sending = await half_sent(server)
        await server.service.drain(0.05)
        status, reply = await sending.answer()
    assert (status, reply["error"]["code"]) == (503, "draining")


@on_loop
async def test_dead_engine_ends_what_has_not_reached_it() -> None:
    async with endpoint() as server:
        sending = await half_sent(server)
        server.engine.handle.lose("gone")
        await server.service.end_all(unavailable("engine_failed"))
        status, reply = await sending.answer()
    assert (status, reply["error"]["code"]) == (503, "engine_failed")


@on_loop
async def test_bodies_together_are_limited() -> None:
    """One alone may have the whole of it; a second one is told to come back, and both are forgotten afterwards."""
    async with endpoint(max_request_memory_bytes=100_000) as server:
        large = await half_sent(server, "x" * 150_000)
        async with server.session.post(server.url + CHAT, json=chat_body("y" * 1000)) as response:
            assert (response.status, response.headers["Retry-After"]) == (429, "1")
        assert (await large.finish())[1]["error"]["code"] == "context_length_exceeded"
        assert server.service.intake.num_bytes == 0
        await server.chat()


@on_loop
async def test_full_server_does_not_wait_for_a_body() -> None:
    engine = held(0)
    async with endpoint(engine, num_running=1, max_queue=0) as server:
        first = asyncio.create_task(server.post(CHAT, chat_body()))
        await engine.until_running()
        late = await half_sent(server)
        assert (await late.answer())[1]["error"]["code"] == "queue_full"
        engine.gate.set()
        assert (await first)[0] == 200


@on_loop
async def test_drain_of_an_idle_server_is_immediate() -> None:
    async with endpoint() as server:
        await asyncio.wait_for(server.service.drain(60.0), 30.0)


@on_loop
async def test_dead_engine_ends_every_open_request_once() -> None:
    engine = held()
    async with endpoint(engine) as server:
        streams = [await begun_stream(server) for _ in range(3)]
        whole = asyncio.create_task(server.post(CHAT, chat_body()))
        while engine.handle.stats.generation_tokens < 8:  # two of each, then the gate
            await server.turn()
        engine.handle.receive(Failed("rank 1 died"))
        engine.handle.lose("and then the socket closed")
        for response in streams:
            *events, error, done = decode_events((await response.read()).decode())
            assert (error["error"]["code"], done) == ("engine_failed", "[DONE]")
            assert not any("error" in event for event in events)
        status, reply = await whole
        assert (status, reply["error"]["type"]) == (503, "server_error")
        assert (await server.post(CHAT, chat_body()))[1]["error"]["code"] == "engine_failed"
        assert (await server.get("/health"))[1] == {"status": "failed"}
        assert engine.handle.failure == "rank 1 died"
        assert (engine.handle.stats.num_running, engine.handle.stats.generation_tokens) == (0, 8)
        assert server.service.metrics.finished[FinishReason.ERROR] == 4


@pytest.mark.parametrize("stream", [True, False])
@on_loop
async def test_request_that_the_engine_gives_up(stream: bool) -> None:
    """The engine's own words are for the log; another try would fail as well."""
    engine = held(0)
    async with endpoint(engine) as server:
        post = server.session.post(server.url + CHAT, json=chat_body(stream=stream), headers={"X-Request-Id": "r-1"})
        pending = asyncio.ensure_future(post)
        await engine.until_running()
        engine.report(Output(1, finish=FinishReason.ERROR, error="/secret/path: bad"))
        async with await pending as response:
            error = json.loads(await response.read())["error"]
            assert (response.status, error["code"]) == (500, "internal_error")
            assert response.headers["x-should-retry"] == "false"
    assert "r-1" in error["message"]
    assert "secret" not in error["message"]


@on_loop
async def test_request_that_fails_in_the_middle_of_a_stream() -> None:
    engine = held()
    async with endpoint(engine) as server:
        response = await begun_stream(server)
        engine.report(Output(1, finish=FinishReason.ERROR, error="bad"))
        *events, error, done = decode_events((await response.read()).decode())
    assert (error["error"]["code"], done) == ("internal_error", "[DONE]")
    assert len(events) == 3


@on_loop
async def test_outputs_of_a_choice_that_has_ended_are_ignored() -> None:
    """The engine may be a token ahead of a stop string; some of it is read together with the match."""
    engine = held(0)
    async with endpoint(engine) as server:
        task = asyncio.create_task(server.chat(stop="el"))
        await engine.until_running()
        engine.report(*(Output(1, tokens=(token,)) for token in b"Helix"))
        reply = await task
        engine.report(Output(1, tokens=(33,), finish=FinishReason.LENGTH))
        assert reply["choices"][0]["message"]["content"] == "H"
        assert reply["usage"]["completion_tokens"] == 3
        engine.gate.set()
        assert (await server.chat())["choices"][0]["message"]["content"] == "Hello"


@on_loop
async def test_client_that_does_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "UNREAD_S", 0.2)
    monkeypatch.setattr(outputs, "MAX_UNREAD_ENTRIES", 1 << 30)
    engine = FakeEngine(says("x" * 256))
    async with endpoint(engine) as server:
        with await unread_stream(server):
            await engine.until_running(16)
            await asyncio.wait_for(server.service.drain(60.0), 50.0)
            assert server.service.metrics.finished[FinishReason.ABORT] > 0


@on_loop
async def test_outputs_that_pile_up_unread_end_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "MAX_UNREAD_ENTRIES", 1000)
    engine = FakeEngine(says("x" * 256))
    async with endpoint(engine) as server:
        with await unread_stream(server):
            await engine.until_running(16)
            await asyncio.wait_for(server.service.drain(60.0), 50.0)
            assert server.service.metrics.finished[FinishReason.ABORT] > 0


@on_loop
@pytest.mark.slow
async def test_whole_answer_that_is_not_read_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also after the server has done its part and closes the connection."""
    monkeypatch.setattr(http, "UNREAD_S", 0.2)
    for close in (b"", b"Connection: close\r\n"):
        async with endpoint(FakeEngine(says("x" * 256))) as server:
            with await unread(server, head=close, n=16, ignore_eos=True, logprobs=True, top_logprobs=20):
                while server.service.metrics.finished[FinishReason.LENGTH] < 16:
                    await asyncio.sleep(0.01)
                await until_no_connection(server)


@dataclass
class Sending:
    """A request whose last byte has not been sent."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    rest: bytes

    async def finish(self) -> tuple[int, Any]:
        self.writer.write(self.rest)
        return await self.answer()

    async def answer(self) -> tuple[int, Any]:
        status = int((await self.reader.readline()).split()[1])
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])  # type: ignore[index]
        body = json.loads(await self.reader.readexactly(length))
        self.writer.close()
        return status, body


async def half_sent(server: Endpoint, text: str = "Hi") -> Sending:
    """All of a request but its last byte, taken in by the server or refused."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    body = json.dumps(chat_body(text)).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    writer.write(head + b"Content-Length: %d\r\n\r\n" % len(body) + body[:-1])
    await writer.drain()
    await server.turn()
    return Sending(reader, writer, body[-1:])


async def until_no_connection(server: Endpoint) -> None:
    while server.num_connections:
        await asyncio.sleep(0.01)


async def unread_stream(server: Endpoint) -> socket.socket:
    """A stream of about ten megabytes, on a connection that takes little and is never read."""
    return await unread(server, stream=True, n=16, ignore_eos=True, logprobs=True, top_logprobs=20)


async def unread(server: Endpoint, *, head: bytes = b"", **fields: Any) -> socket.socket:
    """A request on a connection that takes little and is never read."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, ("127.0.0.1", server.port))
    body = json.dumps(chat_body(**fields)).encode()
    head += b"Host: localhost\r\nContent-Type: application/json\r\n"
    await loop.sock_sendall(
        sock, b"POST /v1/chat/completions HTTP/1.1\r\n" + head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    )
    return sock
