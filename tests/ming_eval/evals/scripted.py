"""A chat server that knows what to say to each question: right, wrong, broken; by content, whatever the order.

`python -m tests.ming_eval.evals.scripted FILE` serves the answers of a JSON file {question: text} and prints its port.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
import struct
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Say:
    """A reply; `text` None is a null content."""

    text: str | None
    finish_reason: str | None = "stop"
    delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Fail:
    """An HTTP error."""

    status: int
    retry_after: str | None = None
    delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Hang:
    """No answer, ever."""


@dataclass(frozen=True, slots=True)
class Reset:
    """The connection breaks."""


Act = Say | Fail | Hang | Reset


@dataclass
class ScriptedServer:
    """`acts` has for each question what happens at its first, second, ... request; the last one stays."""

    acts: Mapping[str, Sequence[Act]]
    models: tuple[str, ...] = ("scripted",)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    num_running: int = 0
    max_running: int = 0
    port: int = 0
    gate_after: int | None = None  # from this request on, nothing is answered
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """Base URL without /v1."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def num_chats(self) -> int:
        """Chat requests so far."""
        return sum(self.counts.values())

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @classmethod
    @contextmanager
    def in_thread(cls, acts: Mapping[str, Sequence[Act]], **options: Any) -> Iterator[Self]:
        """A server on a thread of its own."""
        server = cls(acts, **options)
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, daemon=True)
        thread.start()
        try:
            asyncio.run_coroutine_threadsafe(server.__aenter__(), loop).result(5)
            yield server
        finally:
            asyncio.run_coroutine_threadsafe(server.__aexit__(), loop).result(5)
            loop.call_soon_threadsafe(loop.stop)
            thread.join(5)
            loop.close()

    def drop(self) -> None:
        """Cut every connection."""
        for task in tuple(self._tasks):
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                await self._answer(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
        body = await reader.readexactly(int(length[1]) if length else 0)
        if "/chat/completions" in head.split("\r\n", 1)[0]:
            self.num_running += 1
            self.max_running = max(self.max_running, self.num_running)
            try:
                await self._chat(json.loads(body), writer)
            finally:
                self.num_running -= 1
        elif "/models" in head.split("\r\n", 1)[0]:
            _send(writer, 200, {"object": "list", "data": [{"id": name} for name in self.models]})
        else:
            _send(writer, 404, {"error": {"message": "no such route"}})

    async def _chat(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        question = self._question(body)
        act = self.acts[question][min(self.counts[question], len(self.acts[question]) - 1)]
        self.counts[question] += 1
        self.bodies.append(body)
        if self.gate_after is not None and self.num_chats > self.gate_after:
            await asyncio.sleep(3600)
        match act:
            case Say():
                await asyncio.sleep(act.delay_s)
                _send(writer, 200, _completion(act))
            case Fail():
                await asyncio.sleep(act.delay_s)
                hint = f"Retry-After: {act.retry_after}\r\n" if act.retry_after is not None else ""
                _send(writer, act.status, {"error": {"message": f"scripted {act.status}"}}, hint)
            case Hang():
                await asyncio.sleep(3600)
            case Reset():
                sock = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close sends RST
                writer.transport.abort()
                raise ConnectionResetError
        await writer.drain()

    def _question(self, body: dict[str, Any]) -> str:
        content = body["messages"][-1]["content"]
        text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
        first = text.split("\n\n", 1)[0]
        return first if first in self.acts else next(question for question in self.acts if question in text)


def _completion(act: Say) -> dict[str, Any]:
    message = {"role": "assistant", "content": act.text}
    choice = {"index": 0, "message": message, "finish_reason": act.finish_reason}
    return {
        "id": "c",
        "object": "chat.completion",
        "choices": [choice],
        "usage": {"prompt_tokens": 7, "completion_tokens": 3},
    }


def _send(writer: asyncio.StreamWriter, status: int, content: Any, headers: str = "") -> None:
    body = json.dumps(content).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)


async def _serve_file(path: Path) -> None:
    acts = {question: (Say(text),) for question, text in json.loads(path.read_text()).items()}
    async with ScriptedServer(acts) as server:
        print(server.port, flush=True)
        await asyncio.sleep(3600)


if __name__ == "__main__":
    asyncio.run(_serve_file(Path(sys.argv[1])))
