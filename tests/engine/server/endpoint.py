"""The real HTTP server on a free port, over a fake engine; tests speak to it as clients do."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import uvloop
from aiohttp import web

from engine.inputs.tokenizer import Tokenizer
from engine.server.app import make_app
from engine.server.http import HttpServer, bind
from engine.server.service import ServerOptions, Service
from tests.engine.server.fake_engine import TOKENIZER, FakeEngine
from tests.engine.server.fake_talker import FakeTalker

MODEL = "ming"
_TEST_S = 90.0


def on_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test on the event loop that the server uses, with a limit against hanging."""

    @functools.wraps(test)
    def run(*args: object, **kwargs: object) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(asyncio.wait_for(test(*args, **kwargs), _TEST_S))

    return run


class Endpoint:
    """A running server and a client session to it."""

    def __init__(
        self,
        service: Service,
        engine: FakeEngine,
        session: aiohttp.ClientSession,
        http: HttpServer,
        app: web.Application,
    ) -> None:
        self.service = service
        self.engine = engine
        self.session = session
        self.port = http.port
        self._http = http
        self._app = app

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def num_connections(self) -> int:
        return self._http.num_connections

    def service_routes(self) -> set[tuple[str, str]]:
        """(method, path) of everything that is routed."""
        routes = ((route.method, route.resource) for route in self._app.router.routes())
        return {(method, resource.canonical) for method, resource in routes if resource and method != "HEAD"}

    async def get(self, path: str, **headers: str) -> tuple[int, Any]:
        """Status and JSON body."""
        async with self.session.get(self.url + path, headers=headers) as response:
            return response.status, await response.json()

    async def turn(self) -> None:
        """Let the server take in what was sent before: what comes later is answered later."""
        for _ in range(2):
            await self.get("/health")

    async def post(self, path: str, body: object, **headers: str) -> tuple[int, Any]:
        """Status and JSON body of a JSON request."""
        async with self.session.post(self.url + path, json=body, headers=headers) as response:
            return response.status, await response.json()

    async def chat(self, text: str = "Hi", **fields: object) -> dict[str, Any]:
        """The reply to a one-turn chat, which must succeed."""
        status, reply = await self.post("/v1/chat/completions", chat_body(text, **fields))
        assert status == 200, reply
        return reply

    async def complete(self, prompt: object, **fields: object) -> dict[str, Any]:
        """The reply to a completion, which must succeed."""
        status, reply = await self.post("/v1/completions", {"prompt": prompt, **fields})
        assert status == 200, reply
        return reply

    async def refused(self, path: str, body: object) -> tuple[int, dict[str, Any]]:
        """Status and error of a request that must fail."""
        status, reply = await self.post(path, body)
        assert status >= 400, reply
        return status, reply["error"]

    async def stream(self, path: str, body: dict[str, Any]) -> list[Any]:
        """Events of a stream, decoded; the last one is "[DONE]"."""
        async with self.session.post(self.url + path, json=body | {"stream": True}) as response:
            assert response.status == 200, await response.text()
            return decode_events((await response.read()).decode())

    async def raw(self, data: bytes) -> bytes:
        """Send bytes on a connection of their own and read until the server closes it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(data)
        answer = await reader.read()
        writer.close()
        return answer


def chat_body(text: str = "Hi", **fields: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **fields}


def decode_events(text: str) -> list[Any]:
    """Server-sent events in the one form that the contract has: a data line and an empty line each."""
    assert text.endswith("\n\n")
    lines = text[:-2].split("\n\n")
    assert all(line.startswith("data: ") and "\n" not in line for line in lines), text
    payloads = [line.removeprefix("data: ") for line in lines]
    return [payload if payload == "[DONE]" else json.loads(payload) for payload in payloads]


@asynccontextmanager
async def endpoint(
    engine: FakeEngine | None = None,
    *,
    is_ready: bool = True,
    tokenizer: Tokenizer | None = TOKENIZER,
    names: tuple[str, ...] = (MODEL,),
    talker: FakeTalker | None = None,
    **options: Any,
) -> AsyncIterator[Endpoint]:
    """A server with these options; `tokenizer` None is `--skip-tokenizer`, `talker` None one that answers in text."""
    engine = engine or FakeEngine()
    speech = None if talker is None else talker.handle
    service = Service(ServerOptions(model_names=names, **options), engine.handle, speech)
    app = make_app(service)
    limit, rejected = service.options.max_connections, service.metrics.rejected
    http = HttpServer(app, bind("127.0.0.1", 0), rejected, max_connections=limit)
    await http.start()
    if is_ready:
        engine.start()
        if talker is not None:
            talker.start()
        service.open(tokenizer)
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
            yield Endpoint(service, engine, session, http, app)
    finally:
        await http.stop()
        await service.close()
