"""`ming-eval sweep` with media, conversations and passes: what servers get to see, and what is left in the folder."""

from __future__ import annotations

from base64 import b64decode
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from ming_eval.cli import app
from ming_eval.metrics.audio import PcmFormat, wav_header
from tests.fakes import FakeServer, Fault, Script, every
from tests.ming_eval.commands.sweeps import lines_of, run_folder, summary_of

pytestmark = pytest.mark.slow  # files, sockets, whole runs

FAST = Script(gap_s=0.001)
SMALL = (
    "--requests",
    "4",
    "--image-size",
    "16",
    "--audio-seconds",
    "0.2",
    "--video-seconds",
    "0.25",
    "--video-size",
    "16",
)
SPEECH = Script(audio=(wav_header(PcmFormat(16_000), 3_200) + bytes(3_200),) * 2)


def sweep(out: Path, *words: str) -> Result:
    return CliRunner().invoke(app, ["sweep", "--out", str(out), "--max-tokens", "3", *words])


def points_of(out: Path) -> list[dict[str, Any]]:
    points: list[dict[str, Any]] = summary_of(out)["points"]
    return points


def parts_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    (message,) = body["messages"]
    content: list[dict[str, Any]] = message["content"]
    return content


# --- media -------------------------------------------------------------------------------------------------------


def test_every_request_has_a_picture_of_its_own_behind_a_number_of_its_own(tmp_path: Path) -> None:
    with FakeServer.in_thread(FAST) as server:
        result = sweep(tmp_path, "--backend", f"s={server.url}", "--task", "I2T", "--concurrency", "1,2", *SMALL)
    assert result.exit_code == 0, result.stderr
    parts = [parts_of(seen.body) for seen in server.chats]
    assert [[part["type"] for part in each] for each in parts] == [["text", "image_url", "text"]] * (1 + 4 + 2 + 4)
    assert len({each[0]["text"] for each in parts}) == len({each[1]["image_url"]["url"] for each in parts}) == 11
    points = points_of(tmp_path)
    assert [(point["task"], point["concurrency"], point["requests"]) for point in points] == [
        ("I2T", 1, 4),
        ("I2T", 2, 4),
    ]
    assert all(point["upload_ms"]["count"] == 4 and point["request_bytes"] > 500 for point in points)
    sent = b64decode(parts[1][1]["image_url"]["url"].partition(",")[2])  # behind the warm-up
    assert (run_folder(tmp_path) / "samples" / "i2t.png").read_bytes() == sent
    assert (run_folder(tmp_path) / "outputs" / "s-i2t-c1.jsonl").exists()


def test_all_tasks_in_one_run_and_speech_is_kept_to_be_heard(tmp_path: Path) -> None:
    def choose(index: int) -> Script:
        return SPEECH if "audio" in server.chats[index].body.get("modalities", ()) else FAST

    with FakeServer.in_thread(choose) as server:
        result = sweep(
            tmp_path, "--backend", f"s={server.url}", "--task", "v2s,T2T,A2T,T2S", "--concurrency", "1", *SMALL
        )
    assert result.exit_code == 0, result.stderr
    points = {point["task"]: point for point in points_of(tmp_path)}
    assert list(points) == ["T2T", "A2T", "T2S", "V2S"]
    assert (points["T2T"]["speech"], points["A2T"]["speech"]) == (None, None)
    speech = points["V2S"]["speech"]
    assert (speech["requests"], speech["audio_s"]) == (4, pytest.approx(4 * 0.2))
    assert speech["ttfa_ms"]["count"] == speech["rtf"]["count"] == speech["rtf_gen"]["count"] == 4
    kept = sorted(path.name for path in (run_folder(tmp_path) / "outputs").glob("*.wav"))
    assert kept == [f"s-{task}-c1-{i}.wav" for task in ("t2s", "v2s") for i in range(3)]
    assert "Media and speech" in result.stdout
    types = {part["type"] for seen in server.chats for part in seen.body["messages"][0]["content"] if "type" in part}
    assert types == {"text", "input_audio", "video_url"}


def test_a_folder_of_media_is_sent_as_it_is(tmp_path: Path) -> None:
    media = tmp_path / "media"
    media.mkdir()
    for name in ("a.png", "b.jpg"):
        (media / name).write_bytes(name.encode())
    with FakeServer.in_thread(FAST) as server:
        options = ("--task", "I2T", "--dataset", str(media), "--concurrency", "1", "--requests", "4", "--warmup", "0")
        result = sweep(tmp_path / "out", "--backend", f"s={server.url}", *options)
    assert result.exit_code == 0, result.stderr
    urls = [parts_of(seen.body)[1]["image_url"]["url"] for seen in server.chats]
    assert sorted(b64decode(url.partition(",")[2]) for url in urls) == [b"a.png", b"a.png", b"b.jpg", b"b.jpg"]


# --- conversations -----------------------------------------------------------------------------------------------


def test_each_turn_holds_what_the_server_said_before(tmp_path: Path) -> None:
    with FakeServer.in_thread(FAST) as server:
        result = sweep(
            tmp_path,
            "--backend",
            f"s={server.url}",
            "--turns",
            "3",
            "--concurrency",
            "2",
            "--requests",
            "7",
            "--warmup",
            "0",
        )
    assert result.exit_code == 0, result.stderr
    by_turn = [seen.body["messages"] for seen in server.chats if len(seen.body["messages"]) == 5]
    assert [[message["role"] for message in messages] for messages in by_turn] == [
        ["user", "assistant"] * 2 + ["user"]
    ] * 2
    assert {message["content"] for messages in by_turn for message in messages[1::2]} == {"w0 w1 w2 "}
    assert server.max_concurrent == 2
    records = sorted(lines_of(tmp_path), key=lambda line: line["index"])
    assert [(line["conversation"], line["turn"]) for line in records] == [
        (0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3), (2, 1)
    ]  # fmt: skip
    (point,) = points_of(tmp_path)
    assert [(turn["turn"], turn["requests"]) for turn in point["turns"]] == [(1, 3), (2, 2), (3, 2)]
    assert point["planned"] == point["requests"] == 7


def test_a_failed_turn_ends_its_conversation_and_nothing_else(tmp_path: Path) -> None:
    with FakeServer.in_thread(every(2, Script(fault=Fault.HTTP_500), FAST)) as server:
        options = ("--turns", "3", "--concurrency", "1", "--requests", "9", "--warmup", "0")
        result = sweep(tmp_path, "--backend", f"s={server.url}", *options)
    assert result.exit_code == 1
    assert [(line["turn"], line["failure"]) for line in lines_of(tmp_path)] == [(1, None), (2, "http_5xx")] * 3
    (point,) = points_of(tmp_path)
    assert (point["planned"], point["requests"], point["failed"]) == (9, 6, 3)


def test_a_scripted_history_is_the_same_for_every_server(tmp_path: Path) -> None:
    with FakeServer.in_thread(FAST) as a, FakeServer.in_thread(Script(num_tokens=2)) as b:
        options = ("--turns", "2..3", "--history", "scripted", "--concurrency", "1", "--requests", "6")
        result = sweep(tmp_path, "--backend", f"a={a.url}", "--backend", f"b={b.url}", *options)
    assert result.exit_code == 0, result.stderr
    digests = [sorted(sha256(seen.raw_body).hexdigest() for seen in server.chats) for server in (a, b)]
    assert digests[0] == digests[1]
    assert len(set(digests[0])) == 1 + 6


# --- passes ------------------------------------------------------------------------------------------------------


def test_passes_go_over_all_points_again_with_other_requests(tmp_path: Path) -> None:
    with FakeServer.in_thread(FAST) as server:
        options = ("--repeats", "3", "--concurrency", "1,2", "--requests", "4", "--warmup", "0")
        result = sweep(tmp_path, "--backend", f"s={server.url}", *options)
    assert result.exit_code == 0, result.stderr
    assert len({seen.raw_body for seen in server.chats}) == 3 * 8
    lines = lines_of(tmp_path)
    order = list(dict.fromkeys((line["repeat"], line["concurrency"]) for line in lines))
    assert order == [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (3, 2)]
    for point in points_of(tmp_path):
        assert (point["planned"], point["requests"], point["output_tokens"]) == (12, 12, 36)
        assert [(each["repeat"], each["requests"]) for each in point["passes"]] == [(1, 4), (2, 4), (3, 4)]
        interval, rates = (
            point["pass_intervals"]["output_tokens_per_s"],
            [p["output_tokens_per_s"] for p in point["passes"]],
        )
        assert interval["low"] < sum(rates) / 3 < interval["high"]
        mine = [line for line in lines if line["concurrency"] == point["concurrency"]]
        assert point["wall_s"] < max(line["done_s"] for line in mine) - min(line["sent_s"] for line in mine)
        assert point["output_tokens_per_s"] == pytest.approx(36 / point["wall_s"])  # time between passes is not in it
    assert "Passes" in result.stdout


def test_a_rerun_of_media_conversations_and_passes_asks_the_same(tmp_path: Path) -> None:
    with FakeServer.in_thread(FAST) as server:
        options = ("--task", "I2T", "--turns", "2", "--repeats", "2", "--concurrency", "1", *SMALL)
        sweep(tmp_path, "--backend", f"s={server.url}", *options)
        result = CliRunner().invoke(app, ["rerun", run_folder(tmp_path).name, "--out", str(tmp_path)])
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("request bodies: 6 of 6 are the same bytes\n")  # 2 x (1 warm-up + 2 first turns)


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--task", "X2T"), "unknown task 'X2T'"),
        (("--dataset", "food101", "--task", "A2T"), "which A2T does not take"),
        (("--think-time", "1"), "belong to conversations: give --turns"),
        (("--turns", "x"), "bad --turns 'x'"),
        (("--turns", "2", "--arrivals", "waves"), "waves and --turns do not go together"),
        (("--history", "none", "--turns", "2"), "unknown --history 'none'"),
        (("--image-size", "1"), "bad --image-size '1'"),
    ],
)
def test_what_does_not_go_together_is_exit_code_2(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    result = sweep(tmp_path, "--backend", "s=http://127.0.0.1:9", *words)
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr


def test_a_dry_run_shows_a_request_without_the_bulk_of_its_picture(tmp_path: Path) -> None:
    result = sweep(tmp_path, "--backend", "s=http://127.0.0.1:9", "--task", "I2T", "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert '"url":"data:image/png;base64,iVBORw0KGgo' in result.stdout
    assert len(result.stdout) < 3_000
