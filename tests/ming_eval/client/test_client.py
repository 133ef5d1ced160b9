"""The client over real HTTP: replies in every framing, the pool, TLS."""

from __future__ import annotations

import asyncio
import ssl
import time
from pathlib import Path

import pytest
import uvloop

from ming_eval.client import Client, Exchange, Timeouts
from ming_eval.client.stamps import IS_SUPPORTED
from ming_eval.errors import TargetError
from ming_eval.targets import Target
from ming_eval.types import Event, EventKind, Failure, Message, Request, Task, Text
from tests.fakes import FakeServer, Fault, Script, every
from tests.ming_eval.client.helpers import PATIENT, ask, client_of, exchange_with, run, send_all, text_of, words

CERTIFICATE = Path(__file__).with_name("localhost.pem")


# --- replies ---


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize(
    "script",
    [
        Script(),
        Script(split_bytes=1),
        Script(split_bytes=7, newline="\r\n"),
        Script(newline="\r"),
        Script(framing="eof"),
        Script(continue_first=True),
        Script(comment="ping", role_event=False),
        Script(content_type="text/plain"),
        Script(continuous_usage=True),
    ],
    ids=lambda script: f"{script.framing}-{script.split_bytes}-{script.newline!r}",
)
def test_streamed_reply(script: Script, loop: str) -> None:
    exchange = exchange_with(script, loop=loop)
    assert (exchange.failure, exchange.error, exchange.http_status) == (None, None, 200)
    assert text_of(exchange) == words(16)
    assert sum(event.kind is EventKind.TEXT for event in exchange.events) == 16
    assert exchange.events[-1].kind is EventKind.DONE
    usages = [event.usage for event in exchange.events if event.usage is not None]
    assert usages[-1].completion_tokens == 16


@pytest.mark.parametrize("framing", ["chunked", "length", "eof"])
def test_whole_reply(framing: str) -> None:
    exchange = exchange_with(Script(framing=framing, num_reasoning=2), ask(stream=False))
    kinds = [event.kind for event in exchange.events]
    assert kinds == [EventKind.REASONING, EventKind.TEXT, EventKind.FINISH, EventKind.USAGE]
    assert exchange.failure is None


def test_whole_reply_to_a_streamed_request_is_read_as_what_it_is() -> None:
    async def play() -> Exchange:
        async with FakeServer(Script()) as server, client_of(server) as client:
            whole = client.prepare(ask(stream=False))  # what a server does that ignores `stream`
            return await client.send(ask(stream=True), whole)

    exchange = run(play())
    assert exchange.failure is None
    assert text_of(exchange) == words(16)


def test_stamps_are_in_order_and_on_the_clients_clock() -> None:
    before = time.perf_counter()
    exchange = exchange_with(Script(num_tokens=5, first_s=0.02, gap_s=0.002))
    times = [event.time_s for event in exchange.events]
    assert exchange.first_byte_s is not None
    assert exchange.done_s is not None
    assert before < exchange.sent_s < exchange.first_byte_s <= times[0]
    assert times == sorted(times)
    assert times[-1] <= exchange.done_s < time.perf_counter()
    texts = [event.time_s for event in exchange.events if event.kind is EventKind.TEXT]
    assert len(set(texts)) > 1  # stamped as they arrive, not when the reply ends


def test_clock_is_read_once_for_all_events_of_an_arrival() -> None:
    readings = iter(range(1_000_000))

    def clock() -> float:
        return next(readings) * 1e-9

    async def play() -> Exchange:
        async with FakeServer(Script(framing="eof")) as server, client_of(server, clock=clock) as client:
            return await client.send(ask())

    exchange = run(play())
    num_readings = next(readings)
    assert num_readings < len(exchange.events) + 12  # one per arrival at most, few beside that


def test_events_are_handed_on_as_they_come() -> None:
    seen: list[Event] = []

    async def play() -> Exchange:
        async with FakeServer(Script()) as server, client_of(server) as client:
            return await client.send(ask(), on_event=seen.append)

    assert run(play()).events == seen


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("framing", ["chunked", "eof"])
def test_bug_in_the_callers_callback_is_raised_not_recorded(stream: bool, framing: str) -> None:
    def broken(_: Event) -> None:
        raise ZeroDivisionError

    async def play() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        async with FakeServer(Script(framing=framing)) as server, client_of(server) as client:
            await client.send(ask(stream=stream), on_event=broken)

    with pytest.raises(ZeroDivisionError):
        run(play())


def test_sample_rate_is_the_servers_else_the_dialects() -> None:
    request = ask(task=Task.T2S)
    script = Script(audio=(b"\0\0",))
    assert exchange_with(script, request).sample_rate_hz == 24_000
    stated = Script(audio=(b"\0\0",), sample_rate_hz=44_100)
    assert exchange_with(stated, request).sample_rate_hz == 44_100


# --- what is sent ---


def test_request_as_the_server_sees_it() -> None:
    async def play() -> tuple[Exchange, FakeServer]:
        async with FakeServer() as server:
            target = Target.at(server.url, model="m", api_key="sk-1", headers=[("X-Team", "blue")], dialect="ming")
            async with Client(target, connections=1) as client:
                request = ask("Grüße", seed=3, ignore_eos=True)
                return await client.send(request, client.prepare(request)), server

    exchange, server = run(play())
    (seen,) = server.chats
    assert (seen.method, seen.path) == ("POST", "/v1/chat/completions")
    assert seen.headers["host"] == server.url.removeprefix("http://")
    assert seen.headers["authorization"] == "Bearer sk-1"
    assert seen.headers["x-team"] == "blue"
    assert seen.headers["accept-encoding"] == "identity"
    assert seen.headers["content-type"] == "application/json"
    assert seen.body["messages"] == [{"role": "user", "content": "Grüße"}]
    assert seen.body["ignore_eos"] is True
    assert exchange.request_body == seen.raw_body
    assert exchange.num_request_bytes > len(seen.raw_body)


def test_large_body_arrives_whole() -> None:
    async def play() -> FakeServer:
        async with FakeServer() as server, client_of(server) as client:
            exchange = await client.send(ask("x" * 5_000_000))
            assert exchange.failure is None
            return server

    assert len(run(play()).chats[0].body["messages"][0]["content"]) == 5_000_000


# --- the pool ---


def test_connections_are_opened_first_and_reused() -> None:
    async def play() -> tuple[list[Exchange], FakeServer, int]:
        async with FakeServer() as server, client_of(server, connections=4) as client:
            await asyncio.sleep(0.05)  # the server accepts a moment after the client is connected
            opened = server.num_connections
            assert len(client.connect_times_s) == 4
            return await send_all(client, [ask(f"q{i}") for i in range(20)], concurrency=4), server, opened

    exchanges, server, opened = run(play())
    assert opened == server.num_connections == 4
    assert all(exchange.reused_connection and exchange.connect_s is None for exchange in exchanges)


def test_more_connections_than_one_wave() -> None:
    async def play() -> int:
        async with FakeServer() as server, client_of(server, connections=150):
            await asyncio.sleep(0.1)
            return server.num_connections

    assert run(play()) == 150


def test_more_requests_than_connections_get_connections_of_their_own() -> None:
    async def play() -> tuple[list[Exchange], FakeServer]:
        async with FakeServer(Script(first_s=0.05)) as server, client_of(server, connections=1) as client:
            return await send_all(client, [ask(f"q{i}") for i in range(6)], concurrency=3), server

    exchanges, server = run(play())
    assert server.num_connections == server.max_concurrent == 3
    assert sum(not exchange.reused_connection for exchange in exchanges) == 2
    assert all((exchange.connect_s is None) is exchange.reused_connection for exchange in exchanges)


def test_failed_connection_is_replaced_before_the_next_request() -> None:
    async def play() -> tuple[list[Exchange], FakeServer]:
        script = every(2, Script(fault=Fault.RESET), Script())
        async with FakeServer(script) as server, client_of(server) as client:
            return [await client.send(ask(f"q{i}")) for i in range(4)], server

    exchanges, server = run(play())
    assert [exchange.reused_connection for exchange in exchanges] == [True, True, False, True]
    assert exchanges[2].connect_s is not None
    assert exchanges[2].failure is None
    assert server.num_connections == 2


@pytest.mark.parametrize("fault", [Fault.HTTP_400, Fault.HTTP_429, Fault.HTTP_500])
def test_a_refusal_that_was_read_to_its_end_leaves_the_connection_open(fault: Fault) -> None:
    async def play() -> tuple[list[Exchange], FakeServer]:
        async with FakeServer(every(2, Script(fault=fault), Script())) as server, client_of(server) as client:
            return [await client.send(ask(f"q{i}")) for i in range(4)], server

    exchanges, server = run(play())
    assert [exchange.failure is None for exchange in exchanges] == [True, False, True, False]
    assert [exchange.reused_connection for exchange in exchanges] == [True] * 4
    assert server.num_connections == 1


def test_a_refusal_of_a_request_that_may_not_have_been_read_closes_the_connection() -> None:
    async def play() -> tuple[list[Exchange], FakeServer]:
        async with FakeServer(Script(fault=Fault.HTTP_429)) as server, client_of(server) as client:
            return [await client.send(ask("long " * 14_000)) for _ in range(2)], server

    exchanges, server = run(play())
    assert [exchange.failure for exchange in exchanges] == [Failure.HTTP_429] * 2
    assert server.num_connections == 2


def test_a_probe_of_a_full_pool_leaves_no_connection_behind() -> None:
    async def play() -> tuple[int, Exchange, int]:
        async with FakeServer(Script()) as server, client_of(server, connections=2) as client:
            for _ in range(3):
                assert await client.reconnect()
            return len(client._open), await client.send(ask()), len(client._open)

    before, exchange, after = run(play())
    assert (before, exchange.failure, after) == (2, None, 2)


def test_a_probe_fills_a_place_that_a_failure_left() -> None:
    async def play() -> tuple[bool, list[Exchange]]:
        async with FakeServer(every(2, Script(fault=Fault.RESET), Script())) as server, client_of(server) as client:
            first = [await client.send(ask(f"q{i}")) for i in range(2)]
            assert first[1].failure is not None
            return await client.reconnect(), [await client.send(ask("q2"))]

    is_there, (third,) = run(play())
    assert is_there
    assert (third.failure, third.reused_connection) == (None, True)


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_connection_that_the_server_closed_while_idle_is_reopened(loop: str) -> None:
    async def play() -> tuple[Exchange, FakeServer]:
        async with FakeServer(Script(close_after=True)) as server, client_of(server) as client:
            assert (await client.send(ask("first"))).failure is None
            await asyncio.sleep(0.05)
            return await client.send(ask("second")), server

    exchange, server = run(play(), loop)
    assert exchange.failure is None
    assert not exchange.reused_connection
    assert exchange.connect_s is not None
    assert len(server.chats) == server.num_connections == 2


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.slow
def test_close_that_came_while_nobody_looked_is_noticed(loop: str) -> None:
    """The client's loop is busy elsewhere when the server closes; the next request must not fall into the hole."""

    async def play(url: str) -> Exchange:
        async with Client(Target.at(url), connections=1, timeouts=PATIENT) as client:
            assert (await client.send(ask("first"))).failure is None
            time.sleep(0.7)
            return await client.send(ask("second"))

    with FakeServer.in_thread(Script(close_after=True)) as server:
        exchange = run(play(server.url), loop)
    assert (exchange.failure, exchange.reused_connection) == (None, False)


@pytest.mark.parametrize("delay_s", [0.0, 0.02])
def test_unasked_bytes_end_the_connection(delay_s: float) -> None:
    async def play() -> tuple[Exchange, Exchange]:
        goodbye = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"
        script = every(2, Script(), Script(goodbye=goodbye, goodbye_delay_s=delay_s))
        async with FakeServer(script) as server, client_of(server) as client:
            first = await client.send(ask("first"))
            await asyncio.sleep(0.05)
            return first, await client.send(ask("second"))

    first, second = run(play())
    assert first.failure is None
    assert (second.failure, second.reused_connection) == (None, False)  # not taken for the second one's reply


def test_restart_of_the_server_is_recorded_and_survived() -> None:
    async def play() -> list[Exchange]:
        async with FakeServer() as server, client_of(server) as client:
            port = server.port
            exchanges = [await client.send(ask("before"))]
            await server.__aexit__()
            await asyncio.sleep(0.05)
            exchanges.append(await client.send(ask("while down")))
            async with FakeServer(port=port):
                exchanges.append(await client.send(ask("after")))
            return exchanges

    before, down, after = run(play())
    assert (before.failure, down.failure, after.failure) == (None, Failure.CONNECT, None)
    assert down.error == "connection refused"
    assert down.done_s is not None


def test_cancelled_request_closes_its_connection_only() -> None:
    async def play() -> tuple[Exchange, FakeServer]:
        script = every(2, Script(fault=Fault.HANG), Script())
        async with FakeServer(script) as server, client_of(server, connections=2) as client:
            good = await client.send(ask("good"))
            assert good.failure is None
            task = asyncio.ensure_future(client.send(ask("hung")))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.sleep(0.05)
            assert server.num_running == 0  # the server saw the client leave
            return await client.send(ask("next")), server

    exchange, server = run(play())
    assert (exchange.failure, exchange.reused_connection) == (None, True)
    assert server.num_connections == 2


def test_close_ends_what_is_under_way() -> None:
    async def play() -> Exchange:
        async with FakeServer(Script(fault=Fault.HANG)) as server, client_of(server) as client:
            task = asyncio.ensure_future(client.send(ask()))
            await asyncio.sleep(0.05)
            await client.close()
            return await task

    assert run(play()).failure is Failure.EARLY_EOF


# --- nobody there ---


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_refused_connection_is_one_line(host: str, loop: str) -> None:
    async def play() -> None:
        async with FakeServer() as server:
            port = server.port
        async with Client(Target.at(f"http://{host}:{port}"), connections=8):
            pass

    with pytest.raises(TargetError, match=rf"http://{host}:\d+/v1: connection refused") as error:
        run(play(), loop)
    assert "\n" not in str(error.value)


def test_unknown_host_is_one_line() -> None:
    async def play() -> None:
        async with Client(Target.at("http://no-such-host.invalid"), connections=1):
            pass

    with pytest.raises(TargetError, match=r"no-such-host\.invalid/v1: unknown host"):
        run(play())


@pytest.mark.slow
def test_server_that_never_finishes_the_handshake_is_given_up() -> None:
    async def play(port: int) -> None:
        async with Client(Target.at(f"https://127.0.0.1:{port}"), connections=1, timeouts=Timeouts(connect_s=0.5)):
            pass

    with FakeServer.in_thread() as server, pytest.raises(TargetError, match="no answer in time"):
        run(play(server.port))


# --- TLS ---


def test_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE)

    async def play() -> list[Exchange]:
        async with FakeServer(ssl=context) as server, client_of(server, connections=2) as client:
            return await send_all(client, [ask(f"q{i}") for i in range(6)], concurrency=2)

    exchanges = run(play())
    assert [exchange.failure for exchange in exchanges] == [None] * 6
    assert all(text_of(exchange) == words(16) for exchange in exchanges)


def test_certificate_that_nobody_vouches_for_is_refused() -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATE)

    async def play() -> None:
        async with FakeServer(ssl=context) as server, client_of(server):
            pass

    with pytest.raises(TargetError, match="certificate not trusted"):
        run(play())


@pytest.mark.parametrize("is_stamped", [True, False])
@pytest.mark.slow
def test_upload_time_ends_when_the_kernel_has_taken_the_last_byte(
    is_stamped: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server reads late: a small request is gone by then, one that no buffer holds is not."""
    monkeypatch.setattr("ming_eval.client.client.IS_SUPPORTED", is_stamped and IS_SUPPORTED)
    reading_from_s: list[float] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            await asyncio.sleep(0.1)
            reading_from_s.append(time.perf_counter())
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]))
            body = b'{"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}'
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )
        writer.close()

    async def measure() -> list[Exchange]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, Client(Target.at(url, model="m"), connections=1) as client:
            texts = ("x", "x" * 30_000_000)
            return [
                await client.send(Request(text[:2], (Message("user", (Text(text),)),), stream=False)) for text in texts
            ]

    small, large = uvloop.run(measure())
    assert (small.failure, large.failure) == (None, None)
    assert small.uploaded_s is not None
    assert large.uploaded_s is not None
    assert small.sent_s <= small.uploaded_s < reading_from_s[0]
    assert reading_from_s[1] < large.uploaded_s <= (large.done_s or 0)
