"""A chat server that replays a script, right or wrong, byte by byte as it is told.

It speaks HTTP through raw asyncio streams, because most of what it has to do no web framework lets it do.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, NoReturn, Self


class Fault(StrEnum):
    """What goes wrong. The ones within a stream happen after `Script.fault_at` tokens."""

    HTTP_400 = "http_400"
    HTTP_429 = "http_429"
    HTTP_500 = "http_500"
    REDIRECT = "redirect"
    EMPTY = "empty"  # 200, [DONE], nothing in between
    NO_ANSWER = "no_answer"  # not even a head
    ROLE_ONLY = "role_only"  # the role event, then nothing more
    RESET = "reset"
    EARLY_EOF = "early_eof"  # the body's framing is cut
    CLEAN_EOF = "clean_eof"  # the body ends as it should, the stream does not
    MALFORMED = "malformed"
    INBAND_ERROR = "inband_error"
    HANG = "hang"
    GZIP = "gzip"
    NOT_HTTP = "not_http"


@dataclass(frozen=True, slots=True)
class Script:
    """How one request is answered; times in seconds.

    `num_tokens` None gives what the request asks for. There are `stall_s` of silence more before
    every `stall_every`-th token. `split_bytes` cuts the whole response, head included, into writes of that many bytes.
    """

    num_tokens: int | None = None
    tokens_per_event: int = 1
    first_s: float = 0.0
    gap_s: float = 0.0
    stall_every: int | None = None
    stall_s: float = 0.0
    num_reasoning: int = 0
    reasoning_key: str = "reasoning_content"
    audio: tuple[bytes, ...] = ()
    sample_rate_hz: int | None = None
    role_event: bool = True
    usage: bool = True
    prompt_tokens: int = 5
    continuous_usage: bool = False
    usage_delay_s: float = 0.0
    cached_tokens: int = 0
    finish_reason: str | None = "stop"
    done: bool = True
    comment: str | None = None
    framing: str = "chunked"  # chunked, length or eof
    newline: str = "\n"
    split_bytes: int | None = None
    count_prompt: bool = False  # prompt tokens are 10 and those of the texts
    close_after: bool = False  # closes the connection after the reply without having said so
    goodbye: bytes = b""  # sent after the reply, unasked
    goodbye_delay_s: float = 0.0
    continue_first: bool = False  # 100 Continue before the head
    content_type: str = "text/event-stream; charset=utf-8"
    fault: Fault | None = None
    fault_at: int = 8
    error: str | None = None  # message of an HTTP error, in place of the usual one


ScriptChoice = Script | Callable[[int], Script]


def every(nth: int, special: Script, otherwise: Script) -> Callable[[int], Script]:
    """A choice that gives `special` to each nth request (the nth, 2nth, ...), `otherwise` to the rest."""
    return lambda index: special if index % nth == nth - 1 else otherwise


@dataclass(frozen=True, slots=True)
class SeenRequest:
    """A request as it arrived; `body` is the decoded JSON, None where there is none."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any = None
    raw_body: bytes = b""


def count_tokens(text: str) -> int:
    """What POST /tokenize answers."""
    return sum(1 + (len(word) > 6) for word in text.split())


def _tokenized(question: dict[str, Any]) -> dict[str, Any]:
    """A count, or as llama.cpp answers the text's tokens; it takes a field without that name for no text at all."""
    if "prompt" in question:
        return {"count": count_tokens(question["prompt"])}
    return {"tokens": [0] * count_tokens(question.get("content", ""))}


@dataclass
class FakeServer:
    """Answers chat requests by `script` on a port of its own; an async context manager.

    Everything it saw stays readable after it has stopped.
    """

    script: ScriptChoice = field(default_factory=Script)
    models: tuple[str, ...] = ("fake-model",)
    models_status: int = 200
    models_body: Any = None  # instead of the list of `models`
    health_status: int = 200
    tokenizes: bool = False  # POST /tokenize; words of more than 6 letters are two tokens
    tokenizer_info: Any = None  # what GET /tokenizer_info answers; None: there is no such route
    metrics: str | None = None  # the Prometheus page; None: there is no such route
    generates: tuple[bytes, ...] = ()  # what POST /generate (M*) answers, each in a write of its own
    ssl: Any = None
    seen: list[SeenRequest] = field(default_factory=list)
    num_connections: int = 0
    num_running: int = 0
    max_concurrent: int = 0
    port: int = 0
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _handlers: set[asyncio.Task[None]] = field(default_factory=set)
    _server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        """Base URL without /v1."""
        return f"{'https' if self.ssl else 'http'}://127.0.0.1:{self.port}"

    @property
    def chats(self) -> list[SeenRequest]:
        """The chat requests, in order of arrival."""
        return [request for request in self.seen if request.path.endswith("/chat/completions")]

    @property
    def completions(self) -> list[SeenRequest]:
        """Those of raw prompts, in order of arrival."""
        return [request for request in self.seen if request.path == "/v1/completions"]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self.ssl, backlog=2048)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.drop_connections()
        handlers = tuple(self._handlers)
        for handler in handlers:
            handler.cancel()
        await asyncio.gather(*handlers)

    def drop_connections(self) -> None:
        """Cut every open connection, as a restart would."""
        for writer in tuple(self._writers):
            writer.transport.abort()

    @classmethod
    @contextmanager
    def in_thread(cls, script: ScriptChoice | None = None, **options: Any) -> Iterator[Self]:
        """A server on a thread of its own, for tests that are not async themselves."""
        server = cls(script or Script(), **options)
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

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        handler = asyncio.current_task()
        assert handler is not None
        self._handlers.add(handler)
        self._writers.add(writer)
        try:
            while await self._answer(await _read_request(reader), reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client left, or the server stops
        finally:
            self._handlers.discard(handler)
            self._writers.discard(writer)
            writer.close()

    async def _answer(self, request: SeenRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; True when the connection stays open."""
        self.seen.append(request)
        match request.path.removeprefix("/v1"):
            case "/chat/completions" | "/completions":
                return await self._chat(request, reader, writer)
            case "/generate" if self.generates:
                await _send_lines(writer, self.generates)
            case "/models":
                cards = [{"id": name, "object": "model", "max_model_len": 4096} for name in self.models]
                listing = {"object": "list", "data": cards} if self.models_body is None else self.models_body
                await _send_page(writer, self.models_status, listing)
            case "/health":
                await _send_page(writer, self.health_status, {"status": "ok"})
            case "/tokenize" if self.tokenizes:
                await _send_page(writer, 200, _tokenized(request.body))
            case "/tokenizer_info" if self.tokenizer_info is not None:
                await _send_page(writer, 200, self.tokenizer_info)
            case "/metrics" if self.metrics is not None:
                await _send_page(writer, 200, self.metrics, as_text=True)
            case "/version":
                await _send_page(writer, 200, {"version": "fake 1.0"})
            case _:
                await _send_page(writer, 404, {"error": {"message": "no such route", "type": "x", "code": "x"}})
        return True

    async def _chat(self, request: SeenRequest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        script = self.script if isinstance(self.script, Script) else self.script(len(self.chats + self.completions) - 1)
        self.num_running += 1
        self.max_concurrent = max(self.max_concurrent, self.num_running)
        try:
            return await _Reply(script, request.body, reader, writer).send()
        finally:
            self.num_running -= 1


async def _read_request(reader: asyncio.StreamReader) -> SeenRequest:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    request_line, *lines = head.strip().split("\r\n")
    method, path, _ = request_line.split(" ", 2)
    headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    is_json = body and "json" in headers.get("content-type", "json")
    return SeenRequest(method, path, headers, json.loads(body) if is_json else None, body)


async def _send_page(
    writer: asyncio.StreamWriter, status: int, content: Any, headers: str = "", *, as_text: bool = False
) -> None:
    body = content.encode() if as_text else json.dumps(content).encode()
    kind = "text/plain" if as_text else "application/json"
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()


async def _send_lines(writer: asyncio.StreamWriter, pieces: tuple[bytes, ...]) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n")
    for piece in pieces:
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        await writer.drain()
        await asyncio.sleep(0)
    writer.write(b"0\r\n\r\n")
    await writer.drain()


class _CutError(Exception):
    """The reply ends here; the connection is closed."""


_STATUS_FAULTS: dict[Fault, tuple[int, str, str]] = {
    Fault.HTTP_400: (400, "temperature must be between 0 and 2", ""),
    Fault.HTTP_429: (429, "too many requests", "Retry-After: 7\r\n"),
    Fault.HTTP_500: (500, "internal error", ""),
    Fault.REDIRECT: (307, "elsewhere", "Location: http://192.0.2.1/v1/chat/completions\r\n"),
}


class _Reply:
    """One answer under way."""

    def __init__(
        self, script: Script, body: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        asked = body.get("max_completion_tokens") or body.get("max_tokens") or 8
        self.script = script if script.num_tokens is not None else replace(script, num_tokens=asked)
        self.body = body
        self.reader = reader
        self.writer = writer
        self.num_tokens = self.script.num_tokens or 0

    async def send(self) -> bool:
        """Play the script; True when the connection stays open."""
        fault = self.script.fault
        if fault in _STATUS_FAULTS:
            status, message, headers = _STATUS_FAULTS[fault]
            error = {"message": self.script.error or message, "type": "x", "param": None, "code": None}
            await _send_page(self.writer, status, {"error": error}, headers)
            return True
        try:
            await self._send_good()
        except _CutError:
            return False
        if self.script.goodbye:
            await asyncio.sleep(self.script.goodbye_delay_s)
            await self._write(self.script.goodbye)
        return not self.script.close_after and self.script.framing != "eof"

    async def _send_good(self) -> None:
        match self.script.fault:
            case Fault.NO_ANSWER:
                await self._hang()
            case Fault.NOT_HTTP:
                await self._write(b"SSH-2.0-OpenSSH_9.6\r\n")
                return
        if self.body.get("stream"):
            await self._send_stream()
        else:
            await asyncio.sleep(self.script.first_s + self.script.gap_s * self.num_tokens)
            await self._send_whole()

    # --- whole ---

    async def _send_whole(self) -> None:
        script = self.script
        message: dict[str, Any] = {"role": "assistant", "content": self._text(script.num_reasoning, self.num_tokens)}
        if script.num_reasoning:
            message[script.reasoning_key] = self._text(0, script.num_reasoning)
        if script.audio:
            message["audio"] = {"id": "a", "data": b64encode(b"".join(script.audio)).decode(), "transcript": "x"}
        if script.fault is Fault.EMPTY:
            message["content"] = ""
        reply: dict[str, Any] = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "fake-model"}
        said = {"text": message["content"]} if "prompt" in self.body else {"message": message}
        reply["choices"] = [{"index": 0, "finish_reason": script.finish_reason} | said]
        if script.usage:
            reply["usage"] = self._usage(self.num_tokens)
        if script.fault is Fault.INBAND_ERROR:
            reply = {"error": {"message": "engine died"}}
        body = json.dumps(reply).encode()
        if script.fault is Fault.MALFORMED:
            body = body[:-5]
        await self._head("application/json", len(body))
        await self._body(body)
        await self._end()

    # --- stream ---

    async def _send_stream(self) -> None:
        script = self.script
        await self._head(script.content_type)
        if script.fault is Fault.EMPTY:
            await self._event("[DONE]")
            await self._end()
            return
        if script.role_event:
            await self._chunk({"role": "assistant", "content": ""})
        if script.comment is not None:
            await self._body(f": {script.comment}\n\n".encode())
        if script.fault is Fault.ROLE_ONLY:
            await self._hang()
        await asyncio.sleep(script.first_s)
        await self._tokens()
        for piece in script.audio:
            await self._chunk({"audio": {"id": "a", "data": b64encode(piece).decode()}})
        if script.finish_reason is not None:
            await self._chunk({}, finish_reason=script.finish_reason)
        await asyncio.sleep(script.usage_delay_s)
        if script.usage and (self.body.get("stream_options") or {}).get("include_usage"):
            await self._event(json.dumps({"choices": [], "usage": self._usage(self.num_tokens)}))
        if script.done:
            await self._event("[DONE]")
        await self._end()

    async def _tokens(self) -> None:
        script = self.script
        for start in range(0, self.num_tokens, script.tokens_per_event):
            if start and script.gap_s:
                await asyncio.sleep(script.gap_s)
            if script.stall_every and (start + 1) % script.stall_every == 0:
                await asyncio.sleep(script.stall_s)
            if script.fault is not None and start <= script.fault_at < start + script.tokens_per_event:
                await self._break(script.fault)
            end = min(start + script.tokens_per_event, self.num_tokens)
            key = script.reasoning_key if start < script.num_reasoning else "content"
            usage = self._usage(end) if script.continuous_usage else None
            await self._chunk({key: self._text(start, end)}, usage=usage)

    async def _break(self, fault: Fault) -> None:
        match fault:
            case Fault.RESET:
                sock = self.writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close sends RST
                self.writer.transport.abort()
                raise _CutError
            case Fault.EARLY_EOF:
                raise _CutError
            case Fault.CLEAN_EOF:
                await self._end()
                raise _CutError
            case Fault.MALFORMED:
                await self._event('{"choices": [{"index": 0, "delta": {"conte')
            case Fault.INBAND_ERROR:
                await self._event(json.dumps({"error": {"message": "engine died", "type": "server_error"}}))
                await self._event("[DONE]")
                await self._end()
                raise _CutError
            case Fault.HANG:
                await self._hang()

    async def _hang(self) -> NoReturn:
        """Stay silent until the client leaves."""
        await self.reader.read(1)
        raise _CutError

    async def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None, usage: Any = None) -> None:
        said = {"text": delta.get("content", "")} if "prompt" in self.body else {"delta": delta}
        choice = {"index": 0, "logprobs": None, "finish_reason": finish_reason} | said
        chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "fake-model"}
        await self._event(json.dumps(chunk | {"choices": [choice]} | ({} if usage is None else {"usage": usage})))

    async def _event(self, data: str) -> None:
        await self._body(f"data: {data}{self.script.newline * 2}".encode())

    # --- HTTP ---

    async def _head(self, content_type: str, length: int | None = None) -> None:
        script = self.script
        lines = ["HTTP/1.1 200 OK", f"Content-Type: {content_type}"]
        if script.framing == "length" and length is not None:
            lines.append(f"Content-Length: {length}")
        elif script.framing == "chunked":
            lines.append("Transfer-Encoding: chunked")
        if script.sample_rate_hz is not None:
            lines.append(f"X-Audio-Sample-Rate: {script.sample_rate_hz}")
        if script.fault is Fault.GZIP:
            lines.append("Content-Encoding: gzip")
        head = "\r\n".join([*lines, "", ""])
        await self._write(("HTTP/1.1 100 Continue\r\n\r\n" if script.continue_first else "").encode() + head.encode())

    async def _body(self, data: bytes) -> None:
        chunked = self.script.framing == "chunked"
        await self._write(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)

    async def _end(self) -> None:
        if self.script.framing == "chunked":
            await self._write(b"0\r\n\r\n")

    async def _write(self, data: bytes) -> None:
        size = self.script.split_bytes or len(data)
        for start in range(0, len(data), size):
            self.writer.write(data[start : start + size])
            await self.writer.drain()
            if self.script.split_bytes:
                await asyncio.sleep(0)  # let it go out on its own

    def _text(self, start: int, end: int) -> str:
        return "".join(f"w{i} " for i in range(start, end))

    def _usage(self, num_tokens: int) -> dict[str, Any]:
        num_prompt = self.script.prompt_tokens
        if self.script.count_prompt:
            num_prompt = 10 + sum(count_tokens(message["content"]) for message in self.body["messages"])
        usage = {"prompt_tokens": num_prompt, "completion_tokens": num_tokens, "total_tokens": num_prompt + num_tokens}
        return usage | {"prompt_tokens_details": {"cached_tokens": self.script.cached_tokens}}
