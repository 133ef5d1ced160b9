"""`ref_audio` from the request to the talker: decoded in a worker, at two rates, with what is said in it."""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import soundfile

from engine.core.speech import ReferenceClip
from tests.engine.server.endpoint import Endpoint, endpoint, on_loop
from tests.engine.server.fake_talker import RATE_HZ, FakeTalker, pcm_of

pytestmark = pytest.mark.slow  # starts decode workers

TEXT = "Hello there."


def clip_url(seconds: float, rate_hz: int = 24_000) -> str:
    tone = 0.3 * np.sin(2 * np.pi * 220 * np.arange(int(seconds * rate_hz)) / rate_hz)
    file = BytesIO()
    soundfile.write(file, tone, rate_hz, format="WAV")
    return "data:audio/wav;base64," + b64encode(file.getvalue()).decode()


async def speak(server: Endpoint, **fields: Any) -> tuple[int, Any]:
    async with server.session.post(server.url + "/v1/audio/speech", json={"input": TEXT} | fields) as response:
        return response.status, await response.json() if response.status != 200 else await response.read()


@on_loop
async def test_floats_that_are_no_sound() -> None:
    async with endpoint(talker=FakeTalker()) as server:
        for value, message in ((np.nan, "no finite numbers"), (3e4, "samples of up to 3e+04; full scale is 1")):
            file = BytesIO()
            soundfile.write(file, np.full(800, value, np.float32), 16_000, format="WAV", subtype="FLOAT")
            url = "data:audio/wav;base64," + b64encode(file.getvalue()).decode()
            status, body = await speak(server, ref_audio=url)
            assert (status, body["error"]["param"]) == (400, "ref_audio")
            assert message in body["error"]["message"]


def samples(data: bytes) -> np.ndarray:
    return np.frombuffer(data, "<f4")


@on_loop
async def test_the_talker_gets_the_clip_at_its_rate_and_at_16_khz() -> None:
    talker = FakeTalker()
    async with endpoint(talker=talker) as server:
        assert await speak(server, response_format="pcm", ref_audio=clip_url(0.5), ref_text="said") == (
            200,
            pcm_of(TEXT),
        )
        await speak(server, stream_format="audio", ref_audio=clip_url(0.5))
        await speak(server)
    first, second, third = [request.clip for request in talker.requests]
    assert isinstance(first, ReferenceClip)
    assert isinstance(second, ReferenceClip)
    assert (first.transcript, second.transcript, third) == ("said", None, None)
    assert first.digest == second.digest
    assert len(samples(first.samples)) == RATE_HZ // 2
    assert len(samples(first.samples_16k)) == 8000
    assert float(np.abs(samples(first.samples)).max()) == pytest.approx(0.3, abs=0.01)


@on_loop
async def test_short_and_long_clips() -> None:
    talker = FakeTalker()
    async with endpoint(talker=talker) as server:
        status, _ = await speak(server, ref_audio=clip_url(0.1), ref_text="a")
        assert status == 200
        status, _ = await speak(server, ref_audio=clip_url(30.0, 8000))
        assert status == 200
        status, body = await speak(server, ref_audio=clip_url(60.0, 8000))
        for data, message in (("", "audio is empty"), ("AAAA", "none of the accepted types")):
            refused, answer = await speak(server, ref_audio=f"data:audio/wav;base64,{data}")
            assert (refused, answer["error"]["param"]) == (400, "ref_audio")
            assert message in answer["error"]["message"]
    assert status == 400
    assert body["error"]["param"] == "ref_audio"
    assert body["error"]["code"] == "audio_too_long"
    assert "has 60.00 s; at most 30 s" in body["error"]["message"]
    assert len(talker.requests) == 2
