"""Running the client against a scripted server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import uvloop

from ming_eval.client import Client, Exchange, Timeouts
from ming_eval.targets import Target
from ming_eval.types import Message, Request, Text
from tests.fakes import FakeServer, ScriptChoice

T = TypeVar("T")
LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "asyncio": asyncio.new_event_loop,
}
QUICK = Timeouts(first_s=0.4, idle_s=0.2, connect_s=15.0)  # where a limit is what the test is about
PATIENT = Timeouts(first_s=15.0, idle_s=15.0, connect_s=15.0)  # elsewhere: a busy machine must not look like a fault


def run(coroutine: Coroutine[Any, Any, T], loop: str = "uvloop") -> T:
    """Run on the named loop."""
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        return runner.run(asyncio.wait_for(coroutine, 60))


def ask(text: str = "hi", **options: Any) -> Request:
    options = {"max_tokens": 16} | options
    return Request(id=text, messages=(Message("user", (Text(text),)),), **options)


async def send_all(client: Client, requests: list[Request], concurrency: int) -> list[Exchange]:
    """A closed loop: each of `concurrency` tasks sends the next request when its last one has ended."""
    exchanges: list[Exchange] = []
    queue = iter(requests)

    async def slot() -> None:
        exchanges.extend([await client.send(request) for request in queue])

    await asyncio.gather(*(slot() for _ in range(concurrency)))
    return exchanges


def exchange_with(
    script: ScriptChoice, request: Request | None = None, loop: str = "uvloop", timeouts: Timeouts = PATIENT
) -> Exchange:
    """One request to a server that follows `script`."""

    async def play() -> Exchange:
        async with FakeServer(script) as server, client_of(server, timeouts=timeouts) as client:
            return await client.send(request or ask())

    return run(play(), loop)


def client_of(server: FakeServer, *, connections: int = 1, timeouts: Timeouts = PATIENT, **options: Any) -> Client:
    return Client(Target.at(server.url, model="m"), connections=connections, timeouts=timeouts, **options)


def text_of(exchange: Exchange) -> str:
    return "".join(event.text for event in exchange.events if event.kind == "text")


def words(count: int) -> str:
    """What the fake server says in `count` tokens."""
    return "".join(f"w{i} " for i in range(count))
