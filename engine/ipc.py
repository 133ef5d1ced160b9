"""Messages between the server process and its two workers, the engine and the speech process: msgpack frames over a
Unix socket pair each.

A frame is its length (4 bytes, big endian) and a msgpack map whose `type` names the message. Both ends decode into
typed values, so nothing that arrives can be code.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import msgspec

from engine.config import EngineConfig, EngineInfo, SpeechInfo, SpeechOptions
from engine.core.request import EngineStats, GenerationRequest, Output
from engine.core.speech import SpeechOutput, SpeechRequest, SpeechStats
from engine.errors import EngineError

MAX_FRAME_BYTES = 1 << 30
_LENGTH_BYTES = 4
_RECEIVE_BYTES = 1 << 18


class Start(msgspec.Struct, tag=True, frozen=True):
    """Server to engine, first of all: load the model."""

    config: EngineConfig


class Submit(msgspec.Struct, tag=True, frozen=True):
    """Server to engine: requests to run, in this order."""

    requests: tuple[GenerationRequest, ...]


class StartSpeech(msgspec.Struct, tag=True, frozen=True):
    """Server to speech process, first of all: load the talker."""

    options: SpeechOptions


class Speak(msgspec.Struct, tag=True, frozen=True):
    """Server to speech process: someone is about to say something."""

    request: SpeechRequest


class Say(msgspec.Struct, tag=True, frozen=True):
    """Server to speech process: more of the text; `last` says that it is complete."""

    request_id: int
    text: str
    last: bool


class Abort(msgspec.Struct, tag=True, frozen=True):
    """Server to either: requests that nobody waits for any more."""

    request_ids: tuple[int, ...]


class Ready(msgspec.Struct, tag=True, frozen=True):
    """Engine to server: the model is loaded."""

    info: EngineInfo


class Failed(msgspec.Struct, tag=True, frozen=True):
    """Either to server, last of all: why the model cannot be served, or be served any longer."""

    message: str


class Report(msgspec.Struct, tag=True, frozen=True):
    """Engine to server, after each step. `num_received` counts the requests taken in so far."""

    outputs: tuple[Output, ...]
    stats: EngineStats
    num_received: int


class SpeechReady(msgspec.Struct, tag=True, frozen=True):
    """Speech process to server: the talker is loaded."""

    info: SpeechInfo


class SpeechReport(msgspec.Struct, tag=True, frozen=True):
    """Speech process to server, after each step."""

    outputs: tuple[SpeechOutput, ...]
    stats: SpeechStats


Command = Start | Submit | Abort | StartSpeech | Speak | Say
Event = Ready | Failed | Report | SpeechReady | SpeechReport

_encoder = msgspec.msgpack.Encoder()
_command_decoder = msgspec.msgpack.Decoder(Command)
_event_decoder = msgspec.msgpack.Decoder(Event)


class FrameError(EngineError):
    """The stream is not one of frames; the connection cannot go on."""


def frame(body: bytes) -> bytes:
    """`body` with its length in front."""
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


def pack(message: Command | Event) -> bytes:
    """One message as a frame."""
    return frame(_encoder.encode(message))


class FrameSplitter:
    """Bytes in any split to the bodies of complete frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Bodies that `data` completed.

        Raises:
            FrameError: a frame claims more than `MAX_FRAME_BYTES`.
        """
        self._buffer += data
        bodies: list[bytes] = []
        start = 0
        while (body := self._body_at(start)) is not None:
            bodies.append(body)
            start += _LENGTH_BYTES + len(body)
        del self._buffer[:start]
        return bodies

    def _body_at(self, start: int) -> bytes | None:
        head = start + _LENGTH_BYTES
        if len(self._buffer) < head:
            return None
        length = int.from_bytes(self._buffer[start:head], "big")
        if length > MAX_FRAME_BYTES:
            raise FrameError(f"a frame of {length} bytes; the limit is {MAX_FRAME_BYTES}")
        if len(self._buffer) < head + length:
            return None
        return bytes(self._buffer[head : head + length])


def decode_events(splitter: FrameSplitter, data: bytes) -> list[Event]:
    """Messages of a worker that `data` completed.

    Raises:
        FrameError: what arrived is no message.
    """
    try:
        return [_event_decoder.decode(body) for body in splitter.feed(data)]
    except msgspec.MsgspecError as error:
        raise FrameError(f"a frame that is no event: {error}") from None


class Channel:
    """A worker's end of the link. Any thread may send; one at a time receives."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sending = threading.Lock()

    def send(self, event: Event) -> None:
        """Hand over one message.

        Raises:
            OSError: the server is gone.
        """
        with self._sending:
            self._sock.sendall(pack(event))

    def receive(self) -> Iterator[Command]:
        """Commands as they come, until the server goes away.

        Raises:
            FrameError: what arrived is no message.
        """
        splitter = FrameSplitter()
        while data := self._receive_bytes():
            for body in splitter.feed(data):
                yield _decode_command(body)

    def _receive_bytes(self) -> bytes:
        try:
            return self._sock.recv(_RECEIVE_BYTES)
        except ConnectionError:
            return b""  # a server that was killed resets the connection instead of closing it


def _decode_command(body: bytes) -> Command:
    try:
        command: Command = _command_decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise FrameError(f"a frame that is no command: {error}") from None
    return command
