"""`ming-eval coverage` from the command line to the files, against servers that see media, or do not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import soundfile
from typer.testing import CliRunner, Result

from ming_eval.cli import app
from ming_eval.client import wire
from tests import fake_engine
from tests.fakes import FakeServer, Fault, Script
from tests.ming_eval.commands.sweeps import lines_of, run_folder, summary_of

pytestmark = pytest.mark.slow  # real processes, real files

ROOT = Path(__file__).parents[3]

Answer = Callable[[str], Script]  # the kind of input -> how a request with it is answered


@contextmanager
def serving(answer: Answer, **options: Any) -> Iterator[FakeServer]:
    """A server that counts 10 prompt tokens, 50 more for each media part unless `answer` says otherwise."""
    with FakeServer.in_thread(**options) as server:
        server.script = lambda index: answer(kind_of(server.chats[index].body))
        yield server


def sees_everything(kind: str, **values: Any) -> Script:
    return Script(prompt_tokens=10 if kind == "text" else 60, gap_s=0.002, **values)


def parts_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    """The content parts of the one message in a request."""
    (message,) = body["messages"]
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def kind_of(body: dict[str, Any]) -> str:
    """text, image, audio or video."""
    return next((part["type"].removesuffix("_url").removeprefix("input_") for part in parts_of(body)), "text")


def coverage(out: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["coverage", "--out", str(out), *words])


# --- A server that can do it all ---------------------------------------------------------------------------------


def test_summary_by_hand(tmp_path: Path) -> None:
    """Four modalities of 3, 4, 3 and 2 cases, each answered with 3 tokens, the first at once and 2 ms between."""
    with serving(sees_everything) as server:
        result = coverage(
            tmp_path, "--backend", f"s={server.url}", "--modalities", "T2T,I2T,A2T,V2T", "--max-tokens", "3"
        )
    assert result.exit_code == 0, result.stderr
    summary = summary_of(tmp_path)
    assert (summary["format"], summary["requests"], summary["failed"], summary["partial"]) == (1, 12, 0, False)
    rows = [(row["modality"], row["status"], row["passed"], row["planned"]) for row in summary["modalities"]]
    assert rows == [("T2T", "pass", 3, 3), ("I2T", "pass", 4, 4), ("A2T", "pass", 3, 3), ("V2T", "pass", 2, 2)]
    for case in summary["cases"]:
        has_media = case["modality"] != "T2T"
        assert (case["backend"], case["status"], case["reason"]) == ("s", "pass", None)
        assert (case["output"], case["output_tokens"], case["token_source"]) == ("w0 w1 w2 ", 3, "usage")
        assert case["finish_reason"] == "stop"
        assert case["prompt_tokens"] == (60 if has_media else 10)
        assert case["control_prompt_tokens"] == (10 if has_media else None)
        assert case["media_tokens"] == (50 if has_media else None)
        assert 0 < case["ttft_ms"] <= case["e2e_ms"]  # equal where a busy host reads all tokens at once
        assert case["tpot_ms"] == pytest.approx((case["e2e_ms"] - case["ttft_ms"]) / 2, abs=0.001)
        assert case["output_tokens_per_s"] == pytest.approx(3000 / case["e2e_ms"], rel=0.001)
        assert case["ttfa_ms"] is case["rtf"] is case["audio_s"] is None
    (images,) = (row for row in summary["modalities"] if row["modality"] == "I2T")
    pictures = ["shapes.png", "hello.png", "bars.jpg", "dots.png", "cold.jpg"]
    media = ROOT / "suites" / "coverage" / "media"
    assert images["input_bytes"] == sum((media / name).stat().st_size for name in pictures)
    assert (images["output_tokens"], images["prompt_tokens"], images["media_tokens"]) == (12, 240, 200)


def test_warm_up_case_control_in_turn_and_nothing_twice(tmp_path: Path) -> None:
    with serving(sees_everything) as server:
        coverage(tmp_path, "--backend", f"s={server.url}", "--modalities", "I2T,T2T")
    assert [line["id"] for line in lines_of(tmp_path)] == [
        *("t2t-warmup", "t2t-capital", "t2t-arithmetic", "t2t-chinese"),
        *("i2t-warmup", "i2t-shapes", "i2t-shapes-control", "i2t-word", "i2t-word-control"),
        *("i2t-chart", "i2t-chart-control", "i2t-pair", "i2t-pair-control"),
    ]
    unmeasured = [line["id"].endswith(("-warmup", "-control")) for line in lines_of(tmp_path)]
    assert [line["warmup"] for line in lines_of(tmp_path)] == unmeasured
    assert (server.max_concurrent, len(server.chats)) == (1, 13)
    sent = [part for request in server.chats for part in parts_of(request.body) if part["type"] != "text"]
    assert len({json.dumps(part) for part in sent}) == len(sent) == 6


def test_what_is_sent(tmp_path: Path) -> None:
    with serving(sees_everything) as server:
        coverage(tmp_path, "--backend", f"s={server.url}", "--modalities", "V2T,A2T")
    bodies = [request.body for request in server.chats]
    _, beeps, control, *_, square, _ = bodies
    audio, question = parts_of(beeps)
    assert audio["type"] == "input_audio"
    assert audio["input_audio"]["format"] == "wav"
    assert parts_of(control) == [question]
    assert {key: control[key] for key in control if key not in ("messages", "max_completion_tokens")} == {
        key: beeps[key] for key in beeps if key not in ("messages", "max_completion_tokens")
    }
    assert (beeps["max_completion_tokens"], control["max_completion_tokens"]) == (48, 1)
    assert (beeps["temperature"], beeps["stream"]) == (0.0, True)
    video, _ = parts_of(square)
    assert video["video_url"]["url"].startswith("data:video/webm;base64,")


def test_tables_texts_and_command_are_in_the_markdown(tmp_path: Path) -> None:
    with serving(sees_everything) as server:
        result = coverage(tmp_path, "--backend", f"s={server.url}", "--modalities", "I2T", "--max-tokens", "2")
    text = (run_folder(tmp_path) / "summary.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "| s |" in line]
    assert rows[0][:4] == ["s", "I2T", "pass", "4/4"]
    assert [row[1:4] for row in rows[1:]] == [
        ["i2t-shapes", "pass", "320x240 PNG"],
        ["i2t-word", "pass", "320x160 PNG"],
        ["i2t-chart", "pass", "400x300 JPG"],
        ["i2t-pair", "pass", "320x128 PNG + 272x160 JPG"],
    ]
    assert "**s i2t-word**: `hello.png`, Which word is written" in text
    assert "```text\nw0 w1\n```" in text
    assert f"ming-eval coverage --out {tmp_path}" in text
    assert result.stdout.startswith("backend  modality  status")
    assert result.stdout.endswith(f"{run_folder(tmp_path) / 'summary.md'}\n")
    assert "s i2t-shapes: pass" in result.stderr
    outputs = (run_folder(tmp_path) / "outputs" / "s-i2t-c1.jsonl").read_text().splitlines()
    assert [json.loads(line)["text"] for line in outputs] == ["w0 w1 "] * 4


def test_json_manifest_runs_and_report(tmp_path: Path) -> None:
    with serving(sees_everything) as server:
        result = coverage(tmp_path, "--backend", f"s={server.url}", "--modalities", "T2T", "--json", "-")
    assert json.loads(result.stdout) == summary_of(tmp_path)
    assert "backend  modality" in result.stderr
    folder = run_folder(tmp_path)
    assert folder.name.endswith("-coverage-s")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["settings"]["modalities"] == ["T2T"]
    assert manifest["started"] < manifest["finished"]
    again = CliRunner().invoke(app, ["report", str(folder)])
    assert again.exit_code == 0
    assert again.stdout.splitlines()[2].split()[:4] == ["s", "T2T", "pass", "3/3"]
    listed = CliRunner().invoke(app, ["runs", "--out", str(tmp_path)])
    assert listed.stdout.splitlines()[2].split() == [folder.name, "complete", "-", "3", "0", "-"]


def test_several_servers_modality_by_modality(tmp_path: Path) -> None:
    with serving(sees_everything) as a, serving(sees_everything) as b:
        options = ("--modalities", "T2T,V2T", "--backend", f"a={a.url}", "--backend", f"b={b.url}")
        result = coverage(tmp_path, *options)
    assert result.exit_code == 0
    turns = list(dict.fromkeys((line["backend"], line["task"]) for line in lines_of(tmp_path)))
    assert turns == [("a", "T2T"), ("b", "T2T"), ("a", "V2T"), ("b", "V2T")]
    assert "a v2t-ball" in result.stdout
    assert [row["backend"] for row in summary_of(tmp_path)["modalities"]] == ["a", "a", "b", "b"]


# --- Servers that cannot -----------------------------------------------------------------------------------------


def test_a_server_that_drops_media_silently_does_not_pass(tmp_path: Path) -> None:
    with serving(lambda kind: Script(prompt_tokens=10)) as server:
        result = coverage(tmp_path, "--backend", f"s={server.url}", "--modalities", "T2T,I2T")
    assert result.exit_code == 1
    summary = summary_of(tmp_path)
    assert [(row["modality"], row["status"]) for row in summary["modalities"]] == [("T2T", "pass"), ("I2T", "fail")]
    reasons = {case["reason"] for case in summary["cases"] if case["modality"] == "I2T"}
    assert reasons == {"media ignored: 10 prompt tokens with it, 10 without"}
    assert summary["failed"] == 4
    assert summary["verdict"]["reason"] == "4 of 7 cases failed, 5 % may; nothing passed in s I2T (fail)"
    assert "i2t-shapes: fail, media ignored: 10 prompt tokens with it, 10 without" in result.stdout
    assert "media ignored" in (run_folder(tmp_path) / "summary.md").read_text()


def test_a_refusal_is_unsupported_and_exit_code_1_because_it_was_asked_for(tmp_path: Path) -> None:
    refusal = Script(fault=Fault.HTTP_400, error="video_url is not supported by this model")
    with serving(lambda kind: refusal if kind == "video" else sees_everything(kind)) as server:
        asked = coverage(tmp_path / "a", "--backend", f"s={server.url}", "--modalities", "T2T,I2T,A2T,V2T")
        others = coverage(tmp_path / "b", "--backend", f"s={server.url}", "--modalities", "T2T,I2T,A2T")
    assert (asked.exit_code, others.exit_code) == (1, 0)
    summary = summary_of(tmp_path / "a")
    clips = [case for case in summary["cases"] if case["modality"] == "V2T"]
    for case in clips:
        assert case["status"] == "unsupported"
        assert case["reason"] == "HTTP 400: video_url is not supported by this model"
        assert (case["http_status"], case["failure"], case["ttft_ms"], case["output"]) == (400, "http_4xx", None, "")
    assert len(clips) == 2
    assert (summary["failed"], summary["error_rate"]) == (0, 0.0)
    assert summary["verdict"]["reason"] == "nothing passed in s V2T (unsupported)"


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault.HTTP_500, "http_5xx: HTTP 500: internal error"),
        (Fault.HTTP_400, "http_4xx: HTTP 400: temperature must be between 0 and 2"),
        (Fault.EMPTY, "empty: the reply is complete and holds no output"),
        (Fault.EARLY_EOF, "early_eof"),
        (Fault.INBAND_ERROR, "inband_error: engine died"),
    ],
)
def test_a_failure_is_a_fail_with_its_class(tmp_path: Path, fault: Fault, reason: str) -> None:
    with serving(lambda kind: Script(fault=fault) if kind == "audio" else sees_everything(kind)) as server:
        result = coverage(tmp_path, "--backend", f"s={server.url}", "--modalities", "T2T,A2T")
    assert result.exit_code == 1
    statuses = [(case["modality"], case["status"]) for case in summary_of(tmp_path)["cases"]]
    assert statuses == [("T2T", "pass")] * 3 + [("A2T", "fail")] * 3
    reasons = [case["reason"] for case in summary_of(tmp_path)["cases"][3:]]
    assert all(found.startswith(reason) for found in reasons)
    assert len(server.chats) == 4 + 7  # nothing was tried again


def test_max_error_rate_allows_failures(tmp_path: Path) -> None:
    """The first of four image cases is the third request."""
    with serving(sees_everything) as server:
        server.script = lambda index: (
            Script(fault=Fault.HTTP_500) if index == 1 else sees_everything(kind_of(server.chats[index].body))
        )
        options = ("--backend", f"s={server.url}", "--modalities", "I2T")
        result = coverage(tmp_path, *options, "--max-error-rate", "0.25")
    assert result.exit_code == 0
    assert [case["status"] for case in summary_of(tmp_path)["cases"]] == ["fail", "pass", "pass", "pass"]
    assert summary_of(tmp_path)["modalities"][0]["status"] == "fail"
    assert "i2t-shapes: fail, http_5xx" in result.stdout


# --- Speech ------------------------------------------------------------------------------------------------------


def test_spoken_answers_are_measured_and_kept_as_files(tmp_path: Path) -> None:
    """Two pieces of 0.1 s each at 24 kHz, after the text."""
    piece = b"\x01\x00" * 2400
    script = Script(num_tokens=2, audio=(piece, piece), sample_rate_hz=24_000)
    with serving(lambda kind: script) as server:
        result = coverage(tmp_path, "--backend", f"s={server.url}", "--modalities", "T2S")
    assert result.exit_code == 0, result.stdout
    first, _ = summary_of(tmp_path)["cases"]
    assert (first["modality"], first["status"], first["id"]) == ("T2S", "pass", "t2s-seasons")
    assert (first["audio_s"], first["sample_rate_hz"], first["stalls"]) == (pytest.approx(0.2), 24_000, 0)
    assert first["ttft_ms"] <= first["ttfa_ms"] <= first["e2e_ms"]
    assert first["rtf"] == pytest.approx(first["e2e_ms"] / 200, rel=0.01)
    assert first["audio_file"] == "outputs/s-t2s-seasons.wav"
    samples, rate_hz = soundfile.read(run_folder(tmp_path) / first["audio_file"], dtype="int16")
    assert (rate_hz, samples.tobytes()) == (24_000, piece + piece)
    asked = server.chats[1].body
    assert asked["modalities"] == ["text", "audio"]
    assert "TTFA" in result.stdout
    assert "`outputs/s-t2s-seasons.wav`" in (run_folder(tmp_path) / "summary.md").read_text()


def test_speech_asked_for_and_none_came_is_a_fail(tmp_path: Path) -> None:
    with serving(lambda kind: Script(num_tokens=2)) as server:
        result = coverage(tmp_path, "--backend", f"s={server.url}", "--modalities", "T2S")
    assert result.exit_code == 1
    for case in summary_of(tmp_path)["cases"]:
        assert (case["status"], case["reason"]) == ("fail", "empty: speech was asked for and none came")
        assert (case["rtf"], case["audio_s"], case["audio_file"]) == (None, None, None)


# --- Ends of a run -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--modalities", "T2X"], "unknown modality 'T2X'"),
        (["--modalities", "T2T", "--backend", "a=ftp://host"], "ftp://"),
        (["--backend", "a=http://x", "--backend", "a=http://y"], "two backends have one name"),
        (["--max-tokens", "0"], "--max-tokens"),
        (["somewhere"], "--backend NAME=URL"),
    ],
)
def test_usage_errors(tmp_path: Path, words: list[str], complaint: str) -> None:
    result = coverage(tmp_path, *words)
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert not list(tmp_path.iterdir())


def test_nobody_listening_is_exit_code_3(tmp_path: Path) -> None:
    result = coverage(tmp_path, "--backend", "s=http://127.0.0.1:1")
    assert result.exit_code == 3
    assert "connection refused" in result.stderr
    assert not list(tmp_path.iterdir())


def test_help_has_examples() -> None:
    result = CliRunner().invoke(app, ["coverage", "--help"])
    assert result.exit_code == 0
    assert "ming-eval coverage --modalities" in result.stdout.partition("Examples:")[2]


def test_a_secret_that_the_server_echoes_reaches_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THE_KEY", "sk-the-api-key")
    script = Script(fault=Fault.HTTP_500, error="no quota for sk-the-api-key")
    with serving(lambda kind: script) as server:
        options = ("--backend", f"s={server.url}", "--modalities", "I2T", "--api-key-env", "THE_KEY")
        result = coverage(tmp_path, *options)
    assert server.chats[0].headers["authorization"] == "Bearer sk-the-api-key"
    assert "no quota for ***" in result.stdout
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"sk-the-api-key" not in written
    assert "sk-the-api-key" not in result.output


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", "from ming_eval.cli import main; main()", "coverage", "--out", "out", *words]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, process_group=0
    )


def test_an_interrupted_run_writes_what_there_is(tmp_path: Path) -> None:
    """Warm-up and two of three cases have ended, the third hangs."""
    with FakeServer.in_thread(lambda index: Script(fault=Fault.HANG, fault_at=0) if index == 3 else Script()) as server:
        process = start(tmp_path, "--backend", f"s={server.url}", "--modalities", "T2T,I2T")
        deadline_s = time.monotonic() + 120
        while len(server.chats) < 4 and time.monotonic() < deadline_s:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    summary = summary_of(tmp_path / "out")
    assert (summary["partial"], summary["verdict"]["status"], summary["requests"]) == (True, "interrupted", 2)
    assert [(row["modality"], row["cases"], row["planned"]) for row in summary["modalities"]] == [("T2T", 2, 3)]
    assert "the figures above are partial" in out
    assert "Partial" in (run_folder(tmp_path / "out") / "summary.md").read_text()


def test_without_a_backend_the_bundled_engine_is_started(tmp_path: Path) -> None:
    fake_engine.install(tmp_path)
    process = start(tmp_path, "--modalities", "T2T", "--max-tokens", "2", "--model", "./weights", "--", "--tp", "2")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert json.loads((tmp_path / "engine-args.json").read_text())[:4] == ["--model", "./weights", "--tp", "2"]
    summary = summary_of(tmp_path / "out")
    (backend,) = summary["backends"]
    assert (backend["name"], backend["launched"], backend["model"]) == ("ming", True, "tiny")
    assert summary["modalities"][0]["passed"] == 3


def test_a_killed_run_is_summed_up_from_its_requests_and_answers(tmp_path: Path) -> None:
    """As if the control of one image case, all of another and the last line were missing."""
    with serving(lambda kind: sees_everything(kind, audio=(b"\x01\x00" * 2400,), sample_rate_hz=24_000)) as server:
        coverage(tmp_path, "--backend", f"s={server.url}", "--modalities", "I2T,T2S", "--max-tokens", "3")
    folder = run_folder(tmp_path)
    whole = summary_of(tmp_path)["cases"]
    lines = (folder / "requests.jsonl").read_bytes().splitlines(keepends=True)
    killed = [line for line in lines if b'"i2t-word-control"' not in line and b"i2t-chart" not in line]
    (folder / "requests.jsonl").write_bytes(b"".join(killed) + b'{"id": "i2t-pa')
    (folder / "summary.json").unlink()
    result = CliRunner().invoke(app, ["report", str(folder)])
    assert result.exit_code == 0, result.stderr
    summary = summary_of(tmp_path)
    assert (summary["partial"], summary["verdict"]["status"]) == (True, "killed")
    assert summary["cases"] == [case for case in whole if case["id"] not in ("i2t-word", "i2t-chart")]
    assert "Partial" in (folder / "summary.md").read_text()


def test_a_run_of_other_cases_is_not_summed_up_with_these(tmp_path: Path) -> None:
    with serving(sees_everything) as server:
        coverage(tmp_path, "--backend", f"s={server.url}", "--modalities", "T2T")
    folder = run_folder(tmp_path)
    (folder / "summary.json").unlink()
    manifest = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(manifest.replace('"cases_version": 1', '"cases_version": 0'))
    result = CliRunner().invoke(app, ["report", str(folder)])
    assert result.exit_code == 4
    assert "version 0 of the cases" in result.stderr


def test_what_a_dialect_has_no_form_for_is_unsupported_and_not_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "_AUDIO_FORMATS", {})
    options = ("--modalities", "T2T,A2T", "--max-tokens", "3", "--dialect", "ming")
    with FakeServer.in_thread(Script()) as server:
        result = coverage(tmp_path, "--backend", f"s={server.url}", *options)
        assert len(server.chats) == 1 + 3
    rows = {row["modality"]: row["status"] for row in summary_of(tmp_path)["modalities"]}
    assert rows == {"T2T": "pass", "A2T": "unsupported"}
    reasons = [str(case["reason"]) for case in summary_of(tmp_path)["cases"] if case["modality"] == "A2T"]
    assert all(reason.startswith("cannot send audio of type") for reason in reasons)
    assert result.exit_code == 1  # a modality that was asked for has no case that passed
