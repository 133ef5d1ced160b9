"""Texts spoken by a fake server and heard by a fake recogniser."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any
from wave import open as open_wave

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from typer.testing import CliRunner

from ming_eval.cli import app as command_line
from ming_eval.errors import UsageError
from ming_eval.evals.asking import build_request, read_attachments
from ming_eval.evals.data import DataOptions
from ming_eval.evals.plan import AskOptions, make_plan
from ming_eval.evals.recogniser import parse_judge
from ming_eval.evals.speaking import wav_length
from ming_eval.evals.suite import find_suite, suites_folder


def wav(duration_s: float, rate_hz: int = 16_000) -> bytes:
    buffer = BytesIO()
    with open_wave(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes(b"\0\0" * round(duration_s * rate_hz))
    return buffer.getvalue()


class Studio:
    """A server that speaks and a recogniser that listens; what is heard is known by the length of the audio."""

    def __init__(self, lines: Sequence[dict[str, Any]], *, by_chat: bool = False, judge_status: int = 200) -> None:
        self.lines = {line["item"]["question"]: line for line in lines}
        self.by_chat = by_chat
        self.judge_status = judge_status
        self.bodies: list[dict[str, Any]] = []
        self.heard: dict[bytes, str] = {}

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_get("/v1/models", self.models)
        app.router.add_post("/v1/audio/speech", self.speak)
        if self.by_chat:
            app.router.add_post("/v1/chat/completions", self.chat)
        else:
            app.router.add_post("/v1/audio/transcriptions", self.transcribe)
        return app

    async def models(self, _request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "speaker"}]})

    async def speak(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.bodies.append(body)
        line = self.lines[body["input"]]
        data = wav(line["audio_s"]) if line["audio_s"] is not None else b"no sound"
        self.heard[data] = line["heard"]
        return web.Response(body=data, content_type="audio/wav")

    async def transcribe(self, request: web.Request) -> web.Response:
        form = await request.post()
        assert form["model"] == "ear"
        if self.judge_status != 200:
            return web.json_response({"error": {"message": "deaf"}}, status=self.judge_status)
        return web.json_response({"text": self.heard[form["file"].file.read()]})  # type: ignore[union-attr]

    async def chat(self, request: web.Request) -> web.Response:
        part = (await request.json())["messages"][0]["content"][0]
        text = self.heard[base64.b64decode(part["input_audio"]["data"])]
        return web.json_response({"choices": [{"message": {"content": text}}]})


def fixture() -> list[dict[str, Any]]:
    lines = (suites_folder() / "seed-tts" / "fixture.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@contextmanager
def served(studio: Studio) -> Iterator[str]:
    """The studio on a thread of its own: the command line needs the main one for its signals."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> TestServer:
        server = TestServer(studio.app())
        await server.start_server()
        return server

    server = asyncio.run_coroutine_threadsafe(start(), loop).result(5)
    try:
        yield str(server.make_url("/"))
    finally:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


def run(folder: Path, studio: Studio, lines: Sequence[dict[str, Any]]) -> tuple[int, str]:
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(line["item"]) + "\n" for line in lines), encoding="utf-8")
    with served(studio) as url:
        words = ["accuracy", "seed-tts", "--data", str(data), "--backend", f"s={url}", "--judge", f"ear={url}"]
        result = CliRunner().invoke(command_line, [*words, "--out", str(folder / "results")])
    return result.exit_code, result.stderr


def summary(folder: Path) -> Any:
    (found,) = (folder / "results").iterdir()
    return json.loads((found / "summary.json").read_text())["suites"][0], found


@pytest.mark.parametrize("by_chat", [False, True])
def test_the_fixture_of_the_suite(tmp_path: Path, by_chat: bool) -> None:
    lines = fixture()
    code, errors = run(tmp_path, Studio(lines, by_chat=by_chat), lines)
    assert code == 1, errors  # one of three is an error
    suite, folder = summary(tmp_path)
    items = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    found = [(item["outcome"], item["rule"], item["reason"]) for item in items]
    assert found == [(line["outcome"], line.get("rule"), line.get("reason")) for line in lines]
    assert suite["metric"] == "wer[ear]"  # the recogniser is part of the metric
    assert suite["value"] == pytest.approx((0 + 1 + 6) / 13)
    assert len(list((folder / "audio").glob("*.wav"))) == 3


def test_what_cannot_be_decoded_is_an_error_without_asking_the_judge(tmp_path: Path) -> None:
    lines = [fixture()[0] | {"audio_s": None}]
    run(tmp_path, Studio(lines, judge_status=500), lines)
    suite, _ = summary(tmp_path)
    assert (suite["error"], suite["failures"]) == (1, {"audio": 1})


def test_a_judge_that_fails_is_an_error_and_no_zero(tmp_path: Path) -> None:
    lines = fixture()[:1]
    code, _ = run(tmp_path, Studio(lines, judge_status=400), lines)
    suite, folder = summary(tmp_path)
    assert (code, suite["error"], suite["failures"]) == (1, 1, {"http_4xx": 1})
    assert "judge: HTTP 400: deaf" in (folder / "responses.jsonl").read_text()


def test_a_judge_that_is_not_there_is_said_before_anything_is_spoken(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(line["item"]) + "\n" for line in fixture()), encoding="utf-8")
    studio = Studio(fixture())
    with served(studio) as url:
        words = [
            "accuracy",
            "seed-tts",
            "--data",
            str(data),
            "--backend",
            f"s={url}",
            "--judge",
            "ear=http://127.0.0.1:9",
        ]
        result = CliRunner().invoke(command_line, [*words, "--out", str(tmp_path / "results")])
    assert result.exit_code == 3
    assert "the judge ear: cannot connect to http://127.0.0.1:9" in result.stderr
    assert studio.bodies == []


def test_without_a_judge_nothing_is_asked() -> None:
    with pytest.raises(UsageError, match="--judge"):
        make_plan(find_suite("seed-tts"), AskOptions())


def test_how_a_judge_is_named() -> None:
    target = parse_judge("openai/whisper-large-v3=http://localhost:9000").target
    assert target is not None
    assert (target.model, target.base_url) == ("openai/whisper-large-v3", "http://localhost:9000/v1")
    local = parse_judge("large-v3=whisper:./large")
    assert (local.model, local.target, local.family, local.folder) == ("large-v3", None, "whisper", Path("large"))
    for text in ("http://localhost:9000", "whisper", "=http://x", "a=b", "a=:b", "a=b:"):
        with pytest.raises(UsageError, match="MODEL=URL"):
            parse_judge(text)


def test_length_of_a_file() -> None:
    assert wav_length(wav(1.5, 24_000)) == (1.5, 24_000)
    assert wav_length(b"RIFF") == (None, None)


def test_a_voice_goes_along_with_the_text_and_its_words(tmp_path: Path) -> None:
    (tmp_path / "voice.wav").write_bytes(wav(1.0))
    line = fixture()[0]
    line["item"] |= {"media": [{"type": "audio", "path": "voice.wav", "text": "Hello there."}], "cluster": "voice"}
    studio = Studio([line])
    run(tmp_path, studio, [line])
    assert studio.bodies[0]["ref_audio"].startswith("data:audio/wav;base64,")
    assert studio.bodies[0]["ref_text"] == "Hello there."


def test_the_list_of_the_benchmark_has_voice_and_words(tmp_path: Path) -> None:
    (tmp_path / "prompt-wavs").mkdir()
    (tmp_path / "prompt-wavs" / "a.wav").write_bytes(wav(1.0))
    (tmp_path / "meta.lst").write_text("a-b|Hello there.|prompt-wavs/a.wav|Good morning to you all.\n")
    suite = find_suite("seed-tts")
    options = AskOptions(data=DataOptions(str(tmp_path / "meta.lst")), judge="ear")
    plan = make_plan(suite, options)
    (ref,) = plan.samples[0].item.media
    assert (ref.path, ref.text) == (str(tmp_path / "prompt-wavs" / "a.wav"), "Hello there.")
    attached = read_attachments(plan, plan.samples[0])
    assert build_request(plan, plan.samples[0], attached).extra["ref_text"] == "Hello there."
    own = make_plan(suite, replace(options, protocol="own-voice"))
    assert "ref_text" not in build_request(own, own.samples[0], read_attachments(own, own.samples[0])).extra
