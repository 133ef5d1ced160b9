"""Frames between server and engine: any split, every value, and nothing that is no message."""

from __future__ import annotations

import socket
import threading
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import EngineConfig, EngineInfo, SpeechInfo, SpeechOptions
from engine.core.request import (
    EngineStats,
    FinishReason,
    GenerationRequest,
    MediaInput,
    Output,
    SamplingParams,
    TokenLogprob,
)
from engine.core.speech import ReferenceClip, SpeechFinish, SpeechOutput, SpeechRequest, SpeechStats
from engine.ipc import (
    MAX_FRAME_BYTES,
    Abort,
    Channel,
    Command,
    Event,
    Failed,
    FrameError,
    FrameSplitter,
    Ready,
    Report,
    Say,
    Speak,
    SpeechReady,
    SpeechReport,
    Start,
    StartSpeech,
    Submit,
    decode_events,
    pack,
)

MEDIA = MediaInput("image", 3, 4, (1, 4, 4), b"\x00\xff", (16, 2), "float32", bytes(range(128)))
SAMPLING = SamplingParams(max_tokens=5, seed=2**63 - 1, logit_bias=((3, -1.5),), stop_token_ids=(1, 2), logprobs=0)
REQUEST = GenerationRequest(2**40, (1, 2, 3), SAMPLING, (MEDIA,), "tenant")
SCORED = TokenLogprob(7, -0.25, ((7, -0.25), (8, -3.5)))
OUTPUT = Output(5, (7,), (SCORED,), (SCORED, SCORED), FinishReason.STOP, 9, None, 16, 0.5, None)
INFO = EngineInfo(128, 64, 8, 16, (2,), "abc", "float32", "cpu", 1, 0.5, ("text", "image"))

COMMANDS: list[Command] = [Start(EngineConfig("/model", kv_tokens=100)), Submit((REQUEST, REQUEST)), Abort((1, 2))]
COMMANDS += [
    StartSpeech(SpeechOptions("/model/talker", "cpu", 4)),
    Speak(SpeechRequest(1, 2**63 - 1, "DB30", "slowly", (0.5, -1.0), ReferenceClip(b"a", b"b", b"c", "said"), 9)),
    Say(1, "你好", last=True),
]
EVENTS: list[Event] = [Ready(INFO), Failed("no"), Report((OUTPUT, Output(6)), EngineStats(1, 2, 3, 4), 17)]
EVENTS += [
    SpeechReady(SpeechInfo(44_100, 14_112, 8, ("DB30",), None, "cpu", "float32", 0.5)),
    SpeechReport(
        (SpeechOutput(1, b"\x00\xff", 1, 2), SpeechOutput(2, finish=SpeechFinish.REFUSED, error="no")),
        SpeechStats(2, 1, 0, 8, 7, 9, 10),
    ),
]


def test_commands_arrive_as_they_were_sent() -> None:
    server, engine = socket.socketpair()
    with engine:
        with server:
            server.sendall(b"".join(map(pack, COMMANDS)))
        assert list(Channel(engine).receive()) == COMMANDS


def test_events_arrive_as_they_were_sent() -> None:
    server, engine = socket.socketpair()
    with server:
        with engine:
            for event in EVENTS:
                Channel(engine).send(event)
        assert decode_events(FrameSplitter(), server.recv(1 << 16)) == EVENTS


@given(cuts=st.sets(st.integers(0, 2000)))
def test_any_split_gives_the_same_events(cuts: set[int]) -> None:
    data = b"".join(map(pack, EVENTS))
    borders = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    splitter = FrameSplitter()
    events = [event for start, end in pairwise(borders) for event in decode_events(splitter, data[start:end])]
    assert events == EVENTS


def test_byte_by_byte() -> None:
    splitter = FrameSplitter()
    counts = [len(decode_events(splitter, bytes([byte]))) for byte in pack(EVENTS[0])]
    assert counts == [0] * (len(counts) - 1) + [1]


def test_large_message_in_partial_reads() -> None:
    """More than a socket holds: sender and receiver take turns."""
    big = MediaInput("image", 0, 1, (1, 2, 2), b"", (1,), "uint8", bytes(3 << 20))
    command = Submit((REQUEST, GenerationRequest(1, (1,), SAMPLING, (big,))))
    server, engine = socket.socketpair()
    with server, engine:
        sender = threading.Thread(target=server.sendall, args=(pack(command),))
        sender.start()
        assert next(Channel(engine).receive()) == command
        sender.join()


@pytest.mark.parametrize(
    "data",
    [
        (MAX_FRAME_BYTES + 1).to_bytes(4, "big"),
        b"\x00\x00\x00\x02\xc1\xc1",
        b"\x00\x00\x00\x01\x05",
        pack(Abort((1,))),  # a message, but of the other direction
    ],
)
def test_what_is_no_event_is_an_error(data: bytes) -> None:
    with pytest.raises(FrameError):
        decode_events(FrameSplitter(), data)


def test_commands_of_wrong_types_are_an_error() -> None:
    server, engine = socket.socketpair()
    with server, engine:
        body = msgspec.msgpack.encode({"type": "Abort", "request_ids": ["one"]})
        server.sendall(len(body).to_bytes(4, "big") + body)
        with pytest.raises(FrameError):
            next(Channel(engine).receive())


def test_end_of_the_server_ends_the_commands() -> None:
    server, engine = socket.socketpair()
    with engine:
        server.sendall(pack(COMMANDS[0])[:-1])  # it died in the middle of a message
        server.close()
        assert list(Channel(engine).receive()) == []
