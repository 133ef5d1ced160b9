"""Speech heard and voices compared on this machine, by models of a few hundred bytes that run in sherpa-onnx."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any
from wave import open as open_wave

import numpy as np
import pytest
from aiohttp import web
from typer.testing import CliRunner, Result

from ming_eval.cli import app
from ming_eval.errors import DataError, UsageError
from ming_eval.evals.similarity import cosine, load_encoder
from tests.ming_eval.evals.test_speaking import served
from tests.ming_eval.evals.tiny_onnx import write_ear, write_voice_print

pytestmark = pytest.mark.slow  # loads a native library, runs whole commands


def tone(frequency_hz: float, duration_s: float = 0.5, rate_hz: int = 16_000) -> bytes:
    samples = 0.5 * np.sin(2 * np.pi * frequency_hz * np.arange(int(duration_s * rate_hz)) / rate_hz)
    buffer = BytesIO()
    with open_wave(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate_hz)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return buffer.getvalue()


class Singer:
    """Sings `low` and `high` as told, and whatever else as a high tone."""

    def app(self) -> web.Application:
        routes = web.Application()
        routes.router.add_get("/v1/models", self.models)
        routes.router.add_post("/v1/audio/speech", self.speak)
        return routes

    async def models(self, _request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "singer"}]})

    async def speak(self, request: web.Request) -> web.Response:
        text = (await request.json())["input"]
        return web.Response(body=tone(220 if text == "Low." else 5_000), content_type="audio/wav")


ROWS = [
    {"id": "a", "question": "Low.", "answer": "Low.", "media": [{"type": "audio", "path": "low.wav", "text": "Lo."}]},
    {"id": "b", "question": "High.", "answer": "High.", "media": [{"type": "audio", "path": "low.wav"}]},
    {"id": "c", "question": "Lower.", "answer": "Low.", "media": [{"type": "audio", "path": "low.wav"}]},
]


def invoke(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


def prepare(folder: Path) -> list[object]:
    (folder / "low.wav").write_bytes(tone(240))
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    ear = write_ear(folder / "ear")
    return ["seed-tts", "--data", folder / "data.jsonl", "--judge", f"ear=zipformer-ctc:{ear}", "--out", folder / "r"]


def suite_of(folder: Path) -> tuple[dict[str, Any], Path]:
    (run,) = (folder / "r").iterdir()
    return json.loads((run / "summary.json").read_text())["suites"][0], run


def test_a_suite_is_heard_and_compared_without_another_server(tmp_path: Path) -> None:
    words = prepare(tmp_path)
    encoder = write_voice_print(tmp_path / "print.onnx")
    with served(Singer()) as url:
        result = invoke("accuracy", *words, "--backend", f"s={url}", "--speaker-encoder", f"tiny={encoder}")
    assert result.exit_code == 0, result.stderr
    suite, run = suite_of(tmp_path)
    assert (suite["metric"], suite["value"]) == ("wer[ear]", pytest.approx(1 / 3))  # `Low.` was sung high
    items = [json.loads(line) for line in (run / "items.jsonl").read_text().splitlines()]
    assert [item["extracted"] for item in items] == ["low", "high", "high"]
    cosines = [item["tallies"]["similarity[tiny]"][0] for item in items]
    assert cosines[0] > 0.98 > cosines[1]
    assert suite["other_metrics"]["similarity[tiny]"] == pytest.approx(sum(cosines) / 3)
    assert any("mean over 3 of 3 replies" in caveat for caveat in suite["caveats"])
    assert f"| similarity[tiny] | {sum(cosines) / 3:.3f} |" in (run / "summary.md").read_text()


def test_embeddings_from_elsewhere_come_with_the_rescoring(tmp_path: Path) -> None:
    words = prepare(tmp_path)
    with served(Singer()) as url:
        invoke("accuracy", *words, "--backend", f"s={url}")
    suite, run = suite_of(tmp_path)
    assert not any(name.startswith("similarity") for name in suite["other_metrics"])
    assert any("was not measured" in caveat for caveat in suite["caveats"])
    files = [json.loads(line)["audio"] for line in (run / "responses.jsonl").read_text().splitlines()]
    rows = [{"path": "voices/low.wav", "embedding": [1.0, 0.0]}]
    rows += [{"path": file, "embedding": [3.0, 4.0]} for file in files[:2]]
    stored = tmp_path / "e.jsonl"
    stored.write_text("".join(json.dumps(row) + "\n" for row in rows))
    missing = invoke("rescore", run, "--speaker-encoder", f"wavlm={stored}")
    assert (missing.exit_code, "no embedding of" in missing.stderr) == (4, True)
    stored.write_text(stored.read_text() + json.dumps({"path": files[2], "embedding": [0.0, 2.0]}) + "\n")
    result = invoke("rescore", run, "--speaker-encoder", f"wavlm={stored}")
    assert result.exit_code == 0, result.stderr
    assert suite_of(tmp_path)[0]["other_metrics"]["similarity[wavlm]"] == pytest.approx((0.6 + 0.6 + 0.0) / 3)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--judge", "x=dragon:{ear}"], 2, "no family of recognisers 'dragon'"),
        (["--judge", "x=whisper:{ear}"], 4, "holds no file *encoder*.onnx"),
        (["--speaker-encoder", "x={ear}/none.onnx"], 4, "no speaker encoder at"),
        (["--speaker-encoder", "x={ear}/e.jsonl"], 2, "ming-eval rescore RUN"),
        (["--speaker-encoder", "{ear}"], 2, "write NAME=FILE"),
        (["--speaker-encoder", "x={print}", "--protocol", "own-voice"], 2, "carries a voice"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_asked(
    tmp_path: Path, words: list[str], code: int, message: str
) -> None:
    plain = prepare(tmp_path)
    if "--judge" in words:  # in place of the one that would do: two are refused
        at = plain.index("--judge")
        del plain[at : at + 2]
    voice_print = write_voice_print(tmp_path / "print.onnx")
    words = [word.format(ear=tmp_path / "ear", print=voice_print) for word in words]
    with served(Singer()) as url:
        result = invoke("accuracy", *plain, "--backend", f"s={url}", *words)
    assert result.exit_code == code, result.stderr
    assert message in result.stderr
    assert not list((tmp_path / "r").glob("*/audio"))


def test_embeddings_that_do_not_compare(tmp_path: Path) -> None:
    assert cosine(np.array([1.0, 1.0]), np.array([1.0, 0.0])) == pytest.approx(0.5**0.5)
    for other in (np.zeros(2), np.array([np.nan, 1.0]), np.ones(3)):
        with pytest.raises(DataError, match="embedding"):
            cosine(np.ones(2), other)
    twice = tmp_path / "e.jsonl"
    twice.write_text('{"path": "a/x.wav", "embedding": [1]}\n{"path": "b/x.wav", "embedding": [2]}\n')
    with pytest.raises(DataError, match="second embedding"):
        load_encoder(f"x={twice}")
    with pytest.raises(UsageError, match="NAME=FILE"):
        load_encoder("campplus.onnx")
