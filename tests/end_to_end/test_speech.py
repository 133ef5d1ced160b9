"""Speech of the embedded model over HTTP: what clients hear is what the talker makes, and nothing is left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import urllib.error
import urllib.request
from base64 import b64decode, b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from engine.tiny import ensure_snapshot
from tests.end_to_end.lazy import lazy_import
from tests.end_to_end.server import ANSWER_LIMIT_S, RunningServer, running_server
from tests.waiting import wait_for

openai = lazy_import("openai")
pytestmark = pytest.mark.slow

NAME = "ming-flash-omni-2.0-tiny"
TEXT = "The quick brown fox jumps over the lazy dog. After that it sleeps for quite a while."


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    with running_server(tmp_path_factory.mktemp("server")) as running:
        yield running


def speak(server: RunningServer, **fields: Any) -> tuple[int, bytes]:
    """Status and body of a speech request."""
    body = json.dumps({"input": TEXT, "seed": 1} | fields).encode()
    request = urllib.request.Request(server.url + "/v1/audio/speech", body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=ANSWER_LIMIT_S) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def is_idle(server: RunningServer) -> bool:
    """Whether no request holds anything."""
    open_count = server.metric("num_speech_open") + server.metric("num_requests_running")
    return open_count == 0 and server.metric("num_speech_slots_free") == 8


def test_a_file_and_a_stream_have_the_same_samples(server: RunningServer) -> None:
    status, wav = speak(server)
    assert status == 200
    samples, rate = soundfile.read(BytesIO(wav))
    assert rate == 44_100
    assert 5 < len(samples) / rate < 40
    assert 0.03 < samples.std() < 0.3
    assert speak(server, stream_format="audio", response_format="pcm") == (200, wav[44:])
    assert speak(server, response_format="pcm", seed=2)[1] != wav[44:]


def test_several_at_once(server: RunningServer) -> None:
    with ThreadPoolExecutor(4) as pool:
        bodies = list(pool.map(lambda seed: speak(server, seed=seed, response_format="pcm")[1], range(4)))
    alone = np.frombuffer(speak(server, seed=3, response_format="pcm")[1], "<i2").astype(int)
    shared = np.frombuffer(bodies[3], "<i2").astype(int)
    assert len(set(bodies)) == 4
    assert len(alone) == len(shared)
    assert np.abs(alone - shared).mean() < 40  # of 32,768: rounding grows from patch to patch
    wait_for(lambda: is_idle(server))


@pytest.mark.parametrize("text", ["a", "7", "嗯", "你好" * 1000, "word " * 400, "1234567890" * 50])
def test_odd_texts_end_in_good_audio(server: RunningServer, text: str) -> None:
    status, wav = speak(server, input=text, max_new_tokens=60)
    assert status == 200
    samples, _ = soundfile.read(BytesIO(wav))
    assert len(samples) > 44_100
    assert np.isfinite(samples).all()


@pytest.mark.parametrize("text", ["", "  ", "...!?", "😀🎉", "x" * 5000])
def test_odd_texts_end_in_one_refusal(server: RunningServer, text: str) -> None:
    status, body = speak(server, input=text)
    assert (status, json.loads(body)["error"]["param"]) == (400, "input")


@pytest.mark.parametrize("instructions", ["[" * 1000, '{"BGM":' * 140, r'{"情感": "\ud800"}', "\0"])
def test_odd_instructions_are_read_as_words(server: RunningServer, instructions: str) -> None:
    assert speak(server, instructions=instructions, max_new_tokens=2)[0] == 200


def test_a_chat_sounds_the_same_whole_and_streamed(server: RunningServer) -> None:
    fields: dict[str, Any] = {"modalities": ["text", "audio"], "seed": 3, "max_tokens": 24}
    status, reply = server.chat("Say something.", **fields, audio={"format": "pcm16"})
    assert status == 200
    message = reply["choices"][0]["message"]
    assert message["audio"]["transcript"] == message["content"]
    messages = [{"role": "user", "content": "Say something."}]
    body = json.dumps({"messages": messages, "temperature": 0, "stream": True} | fields).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(server.url + "/v1/chat/completions", body, headers)
    with urllib.request.urlopen(request, timeout=ANSWER_LIMIT_S) as response:
        assert response.headers["X-Audio-Sample-Rate"] == "44100"
        events = [line.removeprefix("data: ") for line in response.read().decode().strip().split("\n\n")]
    deltas = [json.loads(event)["choices"][0]["delta"] for event in events[:-1]]
    audio = [delta["audio"] for delta in deltas if "audio" in delta]
    assert b"".join(b64decode(piece.get("data", "")) for piece in audio) == b64decode(message["audio"]["data"])
    assert "".join(delta.get("content", "") for delta in deltas) == message["content"]


def test_the_openai_client_hears_both_routes(server: RunningServer) -> None:
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0, timeout=ANSWER_LIMIT_S) as client:
        file = client.audio.speech.create(model=NAME, voice="default", input="Hello.", response_format="wav").read()
        assert soundfile.info(BytesIO(file)).samplerate == 44_100
        reply = client.chat.completions.create(
            model=NAME,
            messages=[{"role": "user", "content": "Hi"}],
            modalities=["text", "audio"],
            audio={"voice": "default", "format": "wav"},
            max_completion_tokens=8,
        )
    message = reply.choices[0].message
    assert message.audio is not None
    assert message.audio.transcript == message.content
    assert soundfile.info(BytesIO(b64decode(message.audio.data))).samplerate == 44_100


def test_a_client_that_leaves_in_mid_speech_leaves_nothing(server: RunningServer) -> None:
    body = json.dumps({"input": TEXT * 20, "stream_format": "audio", "response_format": "pcm"}).encode()
    host, port = server.url.removeprefix("http://").split(":")
    head = f"POST /v1/audio/speech HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((host, int(port))) as client:
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert b"200 OK" in client.recv(4096)
        wait_for(lambda: server.metric("num_speech_running") == 1)
    wait_for(lambda: is_idle(server))


def test_text_alone_starts_no_talker(tmp_path: Path) -> None:
    with running_server(tmp_path, "--speech", "off") as server:
        assert "speech process" not in server.log.read_text()
        assert speak(server)[0] == 400
        status, reply = server.chat("Hi", modalities=["text", "audio"])
        assert (status, reply["error"]["code"]) == (400, "unsupported_parameter")
        assert server.chat("Hi")[0] == 200


@pytest.mark.parametrize("part", ["", "talker"])
def test_the_talker_alone(tmp_path: Path, part: str) -> None:
    model = ensure_snapshot() / part
    with running_server(tmp_path, "--speech", "only", "--model", str(model)) as server:
        status, wav = speak(server, max_new_tokens=13)
        assert status == 200
        assert soundfile.info(BytesIO(wav)).duration > 3
        for path, body in (
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}),
            ("/v1/completions", {"prompt": "Hi", "max_tokens": 4}),
            ("/tokenize", {"prompt": "Hi"}),
        ):
            status, reply = server.post(path, body)
            assert status == 400
            assert "--speech only" in reply["error"]["message"]
        assert "engine process" not in server.log.read_text()


def test_a_copied_voice_is_the_preset_of_the_same_clip(tmp_path: Path) -> None:
    voices = tmp_path / "voices"
    voices.mkdir()
    soundfile.write(voices / "anna.wav", 0.2 * np.sin(np.arange(12_000) / 9), 16_000)
    (voices / "anna.txt").write_text("What is said.")
    clip = "data:audio/wav;base64," + b64encode((voices / "anna.wav").read_bytes()).decode()
    with running_server(tmp_path, "--speech", "only", "--voices", str(voices)) as server:
        status, body = speak(server, voice="nobody")
        assert (status, "voices are: default, anna" in json.loads(body)["error"]["message"]) == (400, True)
        status, preset = speak(server, voice="anna", max_new_tokens=13)
        assert status == 200
        assert speak(server, ref_audio=clip, ref_text="What is said.", max_new_tokens=13) == (200, preset)
        status, other = speak(server, ref_audio=clip, ref_text="Something else.", max_new_tokens=13)
        assert (status, other == preset) == (200, False)
        wait_for(lambda: is_idle(server))


def test_the_death_of_the_talker_ends_the_server(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        line = next(line for line in server.log.read_text().splitlines() if "speech process" in line)
        os.kill(int(line.split()[-2]), signal.SIGKILL)
        assert server.process.wait(ANSWER_LIMIT_S) == 1
        assert "the speech process ended" in server.log.read_text()
