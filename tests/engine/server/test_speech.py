"""POST /v1/audio/speech: files, raw streams, events, what is refused, and what is freed."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from io import BytesIO
from typing import Any

import pytest
import soundfile

from engine.ipc import Failed
from engine.server.audio_file import wav_header
from tests.engine.server.endpoint import Endpoint, endpoint, on_loop
from tests.engine.server.fake_talker import NUM_SLOTS, RATE_HZ, FakeTalker, pcm_of
from tests.waiting import until

ROUTE = "/v1/audio/speech"
TEXT = "Hello there."


async def speak(server: Endpoint, **fields: Any) -> tuple[dict[str, str], bytes]:
    """Headers and body of an answer, which must succeed."""
    async with server.session.post(server.url + ROUTE, json={"input": TEXT} | fields) as response:
        assert response.status == 200, await response.text()
        return dict(response.headers), await response.read()


@on_loop
async def test_a_wav_file_by_default_byte_for_byte_what_the_talker_made() -> None:
    async with endpoint(talker=FakeTalker()) as server:
        headers, body = await speak(server)
    assert (headers["Content-Type"], headers["X-Audio-Sample-Rate"]) == ("audio/wav", str(RATE_HZ))
    assert body[44:] == pcm_of(TEXT)
    samples, rate = soundfile.read(BytesIO(body), dtype="int16")
    assert (rate, samples.tobytes()) == (RATE_HZ, pcm_of(TEXT))


@on_loop
@pytest.mark.slow
async def test_other_formats() -> None:
    text = "abcdefgh" * 500  # a quarter of a second
    async with endpoint(talker=FakeTalker()) as server:
        headers, body = await speak(server, response_format="pcm", input=text)
        assert (headers["Content-Type"], body) == ("audio/pcm", pcm_of(text))
        headers, body = await speak(server, response_format="flac", input=text)
        assert headers["Content-Type"] == "audio/flac"
        assert soundfile.read(BytesIO(body), dtype="int16")[0].tobytes() == pcm_of(text)
        for fmt, mime, rate in (("mp3", "audio/mpeg", RATE_HZ), ("opus", "audio/ogg", 48_000)):
            headers, body = await speak(server, response_format=fmt, input=text)
            assert headers["Content-Type"] == mime
            info = soundfile.info(BytesIO(body))
            assert (info.samplerate, headers["X-Audio-Sample-Rate"]) == (rate, str(rate))
            assert info.duration == pytest.approx(0.25, abs=0.1)


@on_loop
async def test_a_raw_stream_has_the_samples_of_the_file() -> None:
    async with endpoint(talker=FakeTalker()) as server:
        headers, body = await speak(server, stream_format="audio", response_format="pcm")
        assert (headers["Content-Type"], body) == ("audio/pcm", pcm_of(TEXT))
        assert (headers["X-Audio-Sample-Rate"], headers["X-Accel-Buffering"]) == (str(RATE_HZ), "no")
        _, body = await speak(server, stream_format="audio")
    assert body == wav_header(RATE_HZ, None) + pcm_of(TEXT)
    assert (body[4:8], body[40:44]) == (b"\xff" * 4, b"\xff" * 4)


@pytest.mark.parametrize("fields", [{"stream": True}, {"stream_format": "sse"}])
@on_loop
async def test_events(fields: dict[str, Any]) -> None:
    async with endpoint(talker=FakeTalker()) as server:
        headers, body = await speak(server, response_format="pcm", **fields)
    assert headers["Content-Type"].startswith("text/event-stream")
    *deltas, done = [json.loads(line.removeprefix("data: ")) for line in body.decode().strip().split("\n\n")]
    assert {event["type"] for event in deltas} == {"speech.audio.delta"}
    assert b"".join(b64decode(event["audio"]) for event in deltas) == pcm_of(TEXT)
    usage = {"input_tokens": 10, "output_tokens": 10, "total_tokens": 20}
    assert done == {"type": "speech.audio.done", "usage": usage}


@on_loop
async def test_samples_are_sent_as_they_are_made() -> None:
    talker = FakeTalker(hold_after=3)
    async with endpoint(talker=talker) as server:
        body = {"input": TEXT, "stream_format": "audio", "response_format": "pcm"}
        async with server.session.post(server.url + ROUTE, json=body) as response:
            assert await response.content.readexactly(6) == pcm_of("Hel")
            talker.gate.set()
            assert await response.read() == pcm_of("lothere")


@on_loop
async def test_choices_reach_the_talker() -> None:
    talker = FakeTalker()
    async with endpoint(talker=talker) as server:
        await speak(server, seed=7, voice="lingguang", instructions="whisper", speaker_embedding=[0.5] * 192)
        await speak(server, voice={"id": "DB30"}, instructions={"情感": "高兴"})
        await speak(server, voice="default", temperature=0.5)
        _, body = await speak(server, max_new_tokens=4, response_format="pcm")
    first, second, third, fourth = talker.requests
    assert (first.seed, first.voice, first.instructions, first.speaker) == (7, "lingguang", "whisper", (0.5,) * 192)
    assert second.instructions == '{"情感":"高兴"}'
    assert (second.voice, third.voice, third.speaker, third.instructions) == ("DB30", None, (), None)
    assert second.seed != third.seed
    assert (first.temperature, third.temperature) == (0.0, 0.5)
    assert (fourth.max_steps, body) == (4, pcm_of("Hell"))


@on_loop
async def test_languages_that_are_spoken() -> None:
    async with endpoint(talker=FakeTalker()) as server:
        for code in ("en", "en-US", "zh_CN", "ZH", "auto"):
            await speak(server, language=code)


@on_loop
async def test_speed_changes_the_length() -> None:
    text = "abcdefgh" * 500
    async with endpoint(talker=FakeTalker()) as server:
        for speed in (0.5, 2.0):
            _, body = await speak(server, input=text, speed=speed, response_format="pcm")
            assert len(body) == pytest.approx(len(pcm_of(text)) / speed, rel=0.1)


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"input": "  \n"}, "input", "nothing to say"),
        ({"input": "?! 😀"}, "input", "nothing that can be spoken"),
        ({"input": "?! 😀", "stream": True}, "input", "nothing that can be spoken"),
        ({"input": "a" * 4097}, "input", "4097 characters, at most 4096"),
        ({"voice": "nobody"}, "voice", '"nobody" is not known here; voices are: default, DB30, lingguang'),
        ({"response_format": "aac"}, "response_format", "this server writes wav, pcm, flac, mp3, opus"),
        ({"response_format": "mp3", "stream": True}, "response_format", "wav, pcm"),
        ({"stream_format": "ws"}, "stream_format", "audio or sse"),
        ({"speed": 4.5}, "speed", "between 0.25 and 4"),
        ({"speed": 2, "stream": True}, "speed", "not streamed"),
        ({"max_new_tokens": 0}, "max_new_tokens", "between 1 and"),
        ({"speaker_embedding": [1.0]}, "speaker_embedding", "192 numbers, got 1"),
        ({"speaker_embedding": [0.0] * 191 + [1e30]}, "speaker_embedding", "between -1000.0 and 1000.0"),
        ({"instructions": "x" * 1025}, "instructions", "at most 1024"),
        ({"instructions": '{"mood": "glad"}'}, "instructions", 'no field "mood"; fields are: 序号, '),
        ({"instructions": {"mood": "glad"}}, "instructions", 'no field "mood"'),
        ({"ref_audio": "https://example.com/a.wav"}, "ref_audio", "must be a data: URL"),
        ({"ref_audio": "data:audio/wav;base64,AAAA", "voice": "DB30"}, "ref_audio", "in place of a voice"),
        ({"ref_text": "said"}, "ref_text", "which is missing"),
        ({"language": "fr"}, "language", "languages are: auto, zh, en"),
        ({"temperature": 2.5}, "temperature", "between 0.0 and 2.0"),
    ],
)
@on_loop
async def test_what_is_refused(fields: dict[str, Any], param: str, message: str) -> None:
    talker = FakeTalker()
    async with endpoint(talker=talker) as server:
        status, error = await server.refused(ROUTE, {"input": TEXT} | fields)
        assert (status, error["param"]) == (400, param)
        assert message in error["message"]
        assert talker.num_open == 0


@on_loop
async def test_other_refusals() -> None:
    async with endpoint(talker=FakeTalker(refuses="the prompt is too long")) as server:
        assert (await server.refused(ROUTE, {}))[1]["code"] == "missing_field"
        assert (await server.refused(ROUTE, {"input": TEXT, "model": "other"}))[0] == 404
        status, error = await server.refused(ROUTE, {"input": "!"})
        assert (status, error["message"]) == (400, "the prompt is too long")
    async with endpoint() as server:
        status, error = await server.refused(ROUTE, {"input": TEXT})
        assert (status, error["code"]) == (400, "unsupported_parameter")
        assert "has no talker" in error["message"]


@on_loop
async def test_a_client_that_leaves_frees_its_utterance() -> None:
    talker = FakeTalker(hold_after=3)
    async with endpoint(talker=talker) as server:
        for fields in ({}, {"stream": True}, {"stream_format": "audio"}):
            post = asyncio.create_task(speak(server, **fields))
            await until(lambda: talker.num_open == 1)
            post.cancel()
            await until(lambda: talker.num_open == 0)
        assert talker.aborted == [1, 2, 3]
        talker.gate.set()
        assert (await speak(server, response_format="pcm"))[1] == pcm_of(TEXT)


@on_loop
async def test_a_full_queue() -> None:
    talker = FakeTalker(hold_after=0)
    async with endpoint(talker=talker, max_queue=1) as server:
        posts = [asyncio.create_task(speak(server)) for _ in range(NUM_SLOTS + 1)]
        await until(lambda: talker.num_open == NUM_SLOTS + 1)
        status, error = await server.refused(ROUTE, {"input": TEXT})
        assert (status, error["code"]) == (429, "queue_full")
        talker.gate.set()
        await asyncio.gather(*posts)


@on_loop
async def test_a_request_takes_no_longer_than_allowed() -> None:
    talker = FakeTalker(hold_after=0)
    async with endpoint(talker=talker, request_timeout_s=0.05) as server:
        assert (await server.refused(ROUTE, {"input": TEXT}))[0] == 504
        assert talker.num_open == 0


@on_loop
async def test_a_talker_that_is_gone_fails_the_server() -> None:
    talker = FakeTalker(hold_after=1)
    async with endpoint(talker=talker) as server:
        post = asyncio.create_task(server.refused(ROUTE, {"input": TEXT}))
        await until(lambda: talker.num_open == 1)
        talker.handle.receive(Failed("out of memory"))
        assert (await post)[1]["code"] == "engine_failed"
        assert await server.get("/health") == (503, {"status": "failed"})
        assert (await server.refused(ROUTE, {"input": TEXT}))[0] == 503


@on_loop
async def test_a_failure_in_an_event_stream_is_an_event() -> None:
    talker = FakeTalker(hold_after=2)
    body = {"input": TEXT, "stream": True}
    async with endpoint(talker=talker) as server, server.session.post(server.url + ROUTE, json=body) as response:
        talker.handle.receive(Failed("out of memory"))  # it has begun: the headers come with the first sound
        text = await response.text()
    last = json.loads(text.strip().split("\n\n")[-1].removeprefix("data: "))
    assert (last["type"], last["error"]["code"]) == ("speech.audio.error", "engine_failed")


@on_loop
async def test_gauges() -> None:
    talker = FakeTalker(hold_after=1)
    async with endpoint(talker=talker) as server:
        post = asyncio.create_task(speak(server))
        await until(lambda: talker.num_open == 1)
        talker.report()
        async with server.session.get(server.url + "/metrics") as response:
            assert 'ming:num_speech_open{model_name="ming"} 1' in await response.text()
        talker.gate.set()
        await post
        async with server.session.get(server.url + "/metrics") as response:
            assert 'ming:num_speech_open{model_name="ming"} 0' in await response.text()
    async with endpoint() as server, server.session.get(server.url + "/metrics") as response:
        assert "speech" not in await response.text()


def test_header_of_a_wav_file() -> None:
    header = wav_header(44_100, 8)
    info = soundfile.info(BytesIO(header + bytes(8)))
    assert (len(header), info.frames, info.samplerate, info.channels, info.subtype) == (44, 4, 44_100, 1, "PCM_16")
