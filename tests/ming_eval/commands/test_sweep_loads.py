"""Load shapes, stop rules, outages and resuming, from the command line to the files."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import FakeServer, Fault, Script, count_tokens, every
from tests.ming_eval.commands.accuracy_runs import invoke
from tests.ming_eval.commands.sweeps import lines_of, run_folder, start, summary_of, sweep
from tests.waiting import wait_for

pytestmark = pytest.mark.slow  # real processes, real files

FAST = Script(gap_s=0.001)
SMALL = ("--max-tokens", "3", "--warmup", "0")
VLLM_CARD = {"object": "list", "data": [{"id": "fake-model", "owned_by": "vllm"}]}


def measured(out: Path) -> list[dict[str, Any]]:
    return [line for line in lines_of(out) if not line["warmup"]]


def point_of(out: Path) -> dict[str, Any]:
    (point,) = summary_of(out)["points"]
    found: dict[str, Any] = point
    return found


# --- shapes ------------------------------------------------------------------------------------------------------


def test_constant_rate_is_kept_and_t0_is_when_a_request_was_due(tmp_path: Path) -> None:
    with FakeServer.in_thread(FAST) as server:
        options = ("--rate", "50", "--arrivals", "constant", "--requests", "20", *SMALL)
        result = sweep(tmp_path, "--backend", f"s={server.url}", *options)
    assert result.exit_code == 0, result.stderr
    intended = sorted(line["intended_s"] for line in measured(tmp_path))
    gaps = [later - earlier for earlier, later in itertools.pairwise(intended)]
    assert gaps == pytest.approx([0.02] * 19, abs=1e-9)
    point = point_of(tmp_path)
    assert (point["rate_per_s"], point["concurrency"], point["requests"]) == (50.0, 256, 20)
    assert point["send_lag_ms"]["count"] == 20
    assert point["steady"] is None
    assert (run_folder(tmp_path) / "outputs" / "s-r50.jsonl").exists()


def test_an_open_loop_does_not_wait_for_slow_answers(tmp_path: Path) -> None:
    """Answers take 0.4 s, 10 requests come within 0.2 s: nearly all are in flight at once."""
    with FakeServer.in_thread(Script(first_s=0.4)) as server:
        options = ("--rate", "50", "--arrivals", "constant", "--requests", "10", *SMALL)
        sweep(tmp_path, "--backend", f"s={server.url}", *options)
        assert server.max_concurrent >= 9


def test_waves_wait_for_the_slowest(tmp_path: Path) -> None:
    slow_third = every(3, Script(first_s=0.15), FAST)
    with FakeServer.in_thread(slow_third) as server:
        options = ("--concurrency", "3", "--arrivals", "waves", "--requests", "8", *SMALL)
        sweep(tmp_path, "--backend", f"s={server.url}", *options)
    lines = measured(tmp_path)
    waves = [[line for line in lines if line["index"] // 3 == wave] for wave in range(3)]
    assert [len(wave) for wave in waves] == [3, 3, 2]
    for earlier, later in itertools.pairwise(waves):
        assert max(line["done_s"] for line in earlier) <= min(line["sent_s"] for line in later)


def test_ramp_gets_faster(tmp_path: Path) -> None:
    with FakeServer.in_thread(FAST) as server:
        options = ("--rate", "10..90", "--arrivals", "ramp", "--duration", "0.6", *SMALL)
        result = sweep(tmp_path, "--backend", f"s={server.url}", *options)
    assert result.exit_code == 0, result.stderr
    intended = sorted(line["intended_s"] for line in measured(tmp_path))
    assert len(intended) == 30  # (10 + 90) / 2 x 0.6
    assert point_of(tmp_path)["planned"] == 30
    gaps = [later - earlier for earlier, later in itertools.pairwise(intended)]
    assert all(later < earlier for earlier, later in itertools.pairwise(gaps))


def test_a_trace_is_replayed_at_its_times(tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    rows = [{"timestamp": 1000 + ms, "output_length": 2, "text": f"row {ms}"} for ms in (0, 50, 300)]
    trace.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "runs"
    with FakeServer.in_thread(FAST) as server:
        result = sweep(out, "--backend", f"s={server.url}", "--trace", str(trace), "--warmup", "0")
        assert [request.body["messages"][0]["content"] for request in server.chats] == ["row 0", "row 50", "row 300"]
    assert result.exit_code == 0, result.stderr
    intended = [line["intended_s"] for line in measured(out)]
    assert [time_s - intended[0] for time_s in intended] == pytest.approx([0.0, 0.05, 0.3])
    assert point_of(out)["output_tokens"] == 6
    assert point_of(out)["rate_per_s"] == 6.67  # two gaps in 0.3 s: no closed loop of 256
    assert "6.67/s" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--arrivals", "poisson"), "needs --rate"),
        (("--rate", "0"), "bad rate"),
        (("--rate", "5", "--arrivals", "waves"), "open loop"),
        (("--arrivals", "sometimes"), "choose one of"),
        (("--rate", "5", "--burstiness", "2"), "gamma"),
        (("--rate", "1..2", "--arrivals", "ramp"), "--duration"),
        (("--until", "2%"), "ci=2%"),
        (("--slo", "speed=3s"), "unknown limit 'speed'"),
        (("--slo", "ttft=500"), "unit"),
        (("--slo", "rtf=0.5"), "spoken"),
        (("--max-in-flight", "3"), "--concurrency"),
        (("--trace", "/no/such/file"), "cannot read the trace"),
        (("--api", "responses"), "choose one of chat, completions"),
        (("--api", "completions", "--task", "I2T"), "text to text"),
        (("--api", "completions", "--dataset", "food101"), "text to text"),
        (("--api", "completions", "--turns", "2"), "--turns is for chats"),
        (("--api", "completions", "--logprobs", "2"), "--logprobs is for chats"),
        (("--vocabulary", "9", "--input-tokens", "5"), "--api completions"),
        (("--vocabulary", "9", "--api", "completions"), "--input-tokens"),
        (("--api", "completions", "--dialect", "mstar-native", "--dry-run"), "no /v1/completions"),
    ],
)
def test_options_that_mean_nothing_are_refused_before_anything_is_sent(
    tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    result = sweep(tmp_path, "--backend", "s=http://127.0.0.1:9", *options)
    assert result.exit_code in (2, 4)
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


# --- stopping ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_open_loop_sends_all_that_is_due_within_its_duration(tmp_path: Path, workers: str) -> None:
    """At a constant 40 per second, 20 are due within 0.49 s; none of them is given up."""
    options = ("--rate", "40", "--arrivals", "constant", "--duration", "0.49", "--workers", workers, *SMALL)
    with FakeServer.in_thread(FAST) as server:
        result = sweep(tmp_path, "--backend", f"s={server.url}", *options)
    assert result.exit_code == 0, result.stderr
    point = point_of(tmp_path)
    assert 19 <= point["requests"] <= 20
    assert (point["failed"], point["stopped"]) == (0, "after 0.49 s")
    assert sorted(line["index"] for line in measured(tmp_path)) == list(range(point["requests"]))


def test_duration_ends_a_point(tmp_path: Path) -> None:
    with FakeServer.in_thread(Script(first_s=0.02)) as server:
        result = sweep(tmp_path, "--backend", f"s={server.url}", "--concurrency", "2", "--duration", "0.5", *SMALL)
    assert result.exit_code == 0, result.stderr
    point = point_of(tmp_path)
    assert point["stopped"] == "after 0.5 s"
    assert 10 < point["requests"] < 60
    sent = [line["sent_s"] for line in measured(tmp_path)]
    assert max(sent) - min(sent) < 0.5
    assert summary_of(tmp_path)["partial"] is False


def test_an_open_loop_sends_all_that_is_due_before_its_end(tmp_path: Path) -> None:
    """50 a second at even distances for half a second: that of 0.00 s to that of 0.48 s, however many are late."""
    with FakeServer.in_thread(Script()) as server:
        options = ("--rate", "50", "--arrivals", "constant", "--duration", "0.5", *SMALL)
        result = sweep(tmp_path, "--backend", f"s={server.url}", *options)
    assert result.exit_code == 0, result.stderr
    point = point_of(tmp_path)
    assert 20 <= point["requests"] <= 27  # the time starts with the first question for a request, a moment later
    assert point["stopped"] == "after 0.5 s"


def test_a_narrow_interval_ends_a_point(tmp_path: Path) -> None:
    with FakeServer.in_thread(Script(first_s=0.01, gap_s=0.005)) as server:
        options = ("--concurrency", "2", "--until", "ci=20%", "--requests", "400", *SMALL)
        result = sweep(tmp_path, "--backend", f"s={server.url}", *options)
    assert result.exit_code == 0, result.stderr
    point = point_of(tmp_path)
    assert "known to" in point["stopped"]
    assert 32 <= point["requests"] < 400


def test_many_failures_end_a_point(tmp_path: Path) -> None:
    with FakeServer.in_thread(Script(fault=Fault.HTTP_500)) as server:
        options = ("--concurrency", "1", "--stop-error-rate", "0.5", "--requests", "200", *SMALL)
        result = sweep(tmp_path, "--backend", f"s={server.url}", *options)
    assert result.exit_code == 1
    assert 20 <= point_of(tmp_path)["requests"] <= 25


def test_the_whole_run_has_a_limit(tmp_path: Path) -> None:
    with FakeServer.in_thread(Script(first_s=0.1)) as server:
        options = ("--concurrency", "1,2", "--requests", "200", "--max-time", "3", *SMALL)
        result = sweep(tmp_path, "--backend", f"s={server.url}", *options)
    assert result.exit_code == 130
    summary = summary_of(tmp_path)
    assert (summary["partial"], summary["verdict"]["status"]) == (True, "interrupted")
    assert "3 s" in summary["verdict"]["reason"]
    assert 1 <= summary["requests"] < 200


# --- goodput -----------------------------------------------------------------------------------------------------


def test_goodput_counts_failures_and_slow_ones_as_misses(tmp_path: Path) -> None:
    """Of 12 requests every 4th fails and every 4th comes late: 6 are good."""

    def script(index: int) -> Script:
        return {2: Script(first_s=0.3), 3: Script(fault=Fault.HTTP_500)}.get(index % 4, FAST)

    with FakeServer.in_thread(script) as server:
        options = ("--concurrency", "1", "--requests", "12", "--slo", "ttft=200ms", "--slo", "e2e=5s", *SMALL)
        sweep(tmp_path, "--backend", f"s={server.url}", *options)
    goodput = point_of(tmp_path)["goodput"]
    assert (goodput["good"], goodput["requests"], goodput["share"]) == (6, 12, 0.5)
    assert goodput["slos"] == {"ttft": 0.2, "e2e": 5.0}
    assert goodput["interval"]["low"] < 0.5 < goodput["interval"]["high"]


# --- outage ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_restart_costs_what_was_in_flight_and_is_drawn(tmp_path: Path) -> None:
    """Four users, a server that is away for a second: at most the four requests in flight fail, the rest wait."""
    server_script = Script(first_s=0.02, gap_s=0.005)
    with FakeServer.in_thread(server_script) as server:
        port = server.port
        options = ("--concurrency", "4", "--requests", "120", "--max-error-rate", "1", *SMALL)
        process = start(tmp_path, "--backend", f"s={server.url}", *options)
        wait_for(lambda: len(server.chats) > 30)
    time.sleep(1.0)
    with FakeServer.in_thread(server_script, port=port):
        _, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    point = point_of(tmp_path / "out")
    assert point["requests"] == 120
    assert 1 <= point["failed"] <= 8  # in flight, or on the way while the first broken connection was looked into
    (outage,) = point["outages"]
    assert outage["end_s"] - outage["start_s"] >= 0.9
    assert 0 < outage["start_s"] < outage["end_s"] < point["wall_s"]  # it was measured before and behind it
    assert point["steady"]["window_s"] < point["wall_s"] - 0.9
    assert "was away for" in stderr


# --- resuming ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_kill_loses_what_was_in_flight_and_resume_completes_the_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--concurrency", "1,2", "--requests", "20", "--max-tokens", "4", "--slo", "ttft=1s")
    with FakeServer.in_thread(Script(gap_s=0.01)) as server:
        process = start(tmp_path, "--backend", f"s={server.url}", *options)
        wait_for(lambda: len(server.chats) >= 1 + 20 + 2 + 9)
        process.kill()
        process.communicate(timeout=120)
        before = lines_of_torn(out)
        folder = run_folder(out)
        with (folder / "requests.jsonl").open("ab") as file:
            file.write(b'{"id": "c2-')  # what a kill in the middle of a write leaves
        result = sweep(out, "--resume", folder.name)
        assert result.exit_code == 0, result.stderr
        whole = tmp_path / "whole"
        assert sweep(whole, "--backend", f"s={server.url}", *options).exit_code == 0
    lines = lines_of(out)
    assert lines[: len(before)] == before  # nothing written was lost
    counts = Counter(line["id"] for line in lines if not line["warmup"])
    assert set(counts.values()) == {1}
    assert len(counts) == 40
    resumed, uninterrupted = summary_of(out), summary_of(whole)
    assert shape_of(resumed) == shape_of(uninterrupted)
    for mine, other in zip(resumed["points"], uninterrupted["points"], strict=True):
        same = ("concurrency", "planned", "requests", "failed", "warmup_requests", "output_tokens", "token_source")
        assert [mine[key] for key in same] == [other[key] for key in same]
    assert resumed["points"][1]["wall_s"] < 5 * uninterrupted["points"][1]["wall_s"]  # the gap is not in it
    texts = (folder / "outputs" / "s-c2.jsonl").read_text().splitlines()
    assert len({json.loads(line)["id"] for line in texts}) == 20


def lines_of_torn(out: Path) -> list[dict[str, Any]]:
    """Whole lines only."""
    *lines, _ = (run_folder(out) / "requests.jsonl").read_text().split("\n")
    return [json.loads(line) for line in lines]


def shape_of(value: Any) -> Any:
    """The keys, all the way down; lengths of lists, not their content."""
    if isinstance(value, dict):
        return {key: shape_of(inner) for key, inner in value.items() if key not in ("reasons", "failures")}
    return (
        [shape_of(inner) for inner in value] if isinstance(value, list) and value and isinstance(value[0], dict) else 0
    )


def test_resuming_a_complete_run_or_with_other_options_is_refused(tmp_path: Path) -> None:
    with FakeServer.in_thread(FAST) as server:
        sweep(tmp_path, "--backend", f"s={server.url}", "--concurrency", "1", "--requests", "2", *SMALL)
    name = run_folder(tmp_path).name
    assert "nothing to resume" in sweep(tmp_path, "--resume", name).stderr
    other = invoke("rescore", name, "--out", str(tmp_path))
    assert (other.exit_code, "no run of `ming-eval accuracy`: `ming-eval sweep` made it" in other.stderr) == (4, True)
    refused = sweep(tmp_path, "--resume", name, "--requests", "3")
    assert (refused.exit_code, "leave out --requests" in refused.stderr) == (2, True)


# --- lengths -----------------------------------------------------------------------------------------------------


def test_lengths_are_drawn_for_each_request_and_equal_on_every_system(tmp_path: Path) -> None:
    with FakeServer.in_thread(FAST, tokenizes=True) as a, FakeServer.in_thread(FAST) as b:
        options = ("--concurrency", "2", "--requests", "12", "--input-tokens", "20..40", "--output-tokens", "2..6")
        servers = ("--backend", f"a={a.url}", "--backend", f"b={b.url}")
        result = sweep(tmp_path, *servers, *options, "--seed", "5")
        asked = [[(asks.body["messages"][0]["content"], tokens_of(asks.body)) for asks in s.chats] for s in (a, b)]
    assert result.exit_code == 0, result.stderr
    assert sorted(asked[0]) == sorted(asked[1])
    texts = [text for text, _ in asked[0]]
    assert len(set(texts)) == len(texts) == 14
    assert {count_tokens(text) for text in texts} <= set(range(20, 41))
    assert len({count_tokens(text) for text in texts}) > 3
    assert {length for _, length in asked[0]} <= set(range(2, 7))
    assert len({length for _, length in asked[0]}) > 2
    assert [point["length_source"] for point in summary_of(tmp_path)["points"]] == ["server", "server"]


def test_prompts_in_token_ids_are_equal_on_every_system_and_survive_a_cut(tmp_path: Path) -> None:
    with FakeServer.in_thread(FAST, models_body=VLLM_CARD) as a, FakeServer.in_thread(FAST) as b:
        options = ("--concurrency", "2", "--requests", "6", "--api", "completions", "--input-tokens", "20..40", *SMALL)
        servers = ("--backend", f"a={a.url}", "--backend", f"b={b.url}")
        result = sweep(tmp_path, *servers, *options, "--vocabulary", "50", "--temperature", "1", "--workers", "2")
        assert result.exit_code == 0, result.stderr
        folder = run_folder(tmp_path)
        stored = (folder / "requests.jsonl").read_text().splitlines(keepends=True)
        (folder / "requests.jsonl").write_text("".join(line for line in stored if '"id":"c2-3"' not in line))
        for name in ("summary.json", "phases.jsonl"):
            (folder / name).unlink()
        resumed = sweep(tmp_path, "--resume", folder.name)
        assert resumed.exit_code == 0, resumed.stderr
    assert a.chats == b.chats == []
    asked = [[json.dumps(request.body["prompt"]) for request in server.completions] for server in (a, b)]
    assert [len(set(each)) for each in asked] == [6, 6]
    assert [len(each) for each in asked] == [7, 7], "what is missing is asked again, and nothing else"
    assert set(asked[0]) == set(asked[1])
    prompts = [json.loads(prompt) for prompt in asked[0]]
    assert {len(prompt) for prompt in prompts} <= set(range(20, 41))
    assert {token for prompt in prompts for token in prompt} <= set(range(50))
    bodies = [server.completions[0].body for server in (a, b)]
    assert [(body["max_tokens"], body["temperature"], body.get("ignore_eos")) for body in bodies] == [
        (3, 1.0, True),
        (3, 1.0, None),
    ]
    assert not any({"messages", "modalities"} & body.keys() for body in bodies)
    assert [point["length_source"] for point in summary_of(tmp_path)["points"]] == ["ids", "ids"]


def test_a_server_that_does_not_say_its_token_ids_is_told_of_before_anything_is_sent(tmp_path: Path) -> None:
    with FakeServer.in_thread(FAST) as server:
        options = ("--concurrency", "2", "--requests", "2", "--api", "completions", "--input-tokens", "20")
        result = sweep(tmp_path / "alone", "--backend", f"s={server.url}", *options)
        shared = sweep(tmp_path / "shared", "--backend", f"s={server.url}", *options, "--workers", "2")
        again = invoke("sweep", "--resume", str(run_folder(tmp_path / "shared")))
        assert server.completions == []
    for each in (result, shared, again):
        assert (each.exit_code, each.stdout, each.stderr.count("give --vocabulary N")) == (2, "", 1), each.stderr
    verdict = json.loads((run_folder(tmp_path / "shared") / "summary.json").read_text())["verdict"]
    assert (verdict["status"], "give --vocabulary N" in verdict["reason"]) == ("failed", True)
    assert "engine.log" not in (run_folder(tmp_path / "shared") / "summary.md").read_text()


def tokens_of(body: dict[str, Any]) -> int:
    length: int = body.get("max_completion_tokens") or body["max_tokens"]
    return length


# --- the request -------------------------------------------------------------------------------------------------


def test_extra_fields_of_the_body_are_sent_and_repeated(tmp_path: Path) -> None:
    with FakeServer.in_thread(FAST) as server:
        options = ("--concurrency", "1", "--requests", "2", *SMALL, "--extra-body", '{"top_k": 1, "temperature": 0.5}')
        assert sweep(tmp_path, "--backend", f"s={server.url}", *options).exit_code == 0
        assert [(chat.body["top_k"], chat.body["temperature"]) for chat in server.chats] == [(1, 0.5)] * 2
    assert summary_of(tmp_path)["settings"]["extra"] == {"top_k": 1, "temperature": 0.5}
    bad = sweep(tmp_path, "--backend", "s=http://127.0.0.1:9", "--extra-body", "top_k=1")
    assert (bad.exit_code, "JSON object" in bad.stderr) == (2, True)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ('{"top_k": 1, "model": "m"}', "cannot set model: name the model with --model"),
        ('{"messages": []}', "cannot set messages: it is what is asked"),
        ('{"prompt": "x"}', "cannot set prompt: it is what is asked"),
        ('{"stream": false}', "cannot set stream: sweep reads streams"),
    ],
)
@pytest.mark.parametrize("command", ["sweep", "accuracy"])
def test_fields_that_make_another_request_of_it_are_refused(
    tmp_path: Path, command: str, fields: str, why: str
) -> None:
    with FakeServer.in_thread(FAST) as server:
        words = [command, *(["mmlu"] if command == "accuracy" else []), "--backend", f"s={server.url}"]
        result = invoke(*words, "--out", str(tmp_path), "--extra-body", fields)
        assert server.seen == []
    assert (result.exit_code, why in result.stderr) == (2, True), result.stderr
    assert not list(tmp_path.iterdir())


def test_drawn_requests_have_seeds_of_their_own_the_same_on_each_server(tmp_path: Path) -> None:
    with FakeServer.in_thread(FAST) as a, FakeServer.in_thread(FAST) as b:
        servers = ("--backend", f"a={a.url}", "--backend", f"b={b.url}")
        options = ("--concurrency", "1,2", "--arrivals", "waves", "--requests", "4", *SMALL, "--temperature", "1")
        assert sweep(tmp_path, *servers, *options).exit_code == 0
        sent = [sorted((chat.body["seed"], chat.body["temperature"]) for chat in server.chats) for server in (a, b)]
        assert sent[0] == sent[1]
        assert len({seed for seed, _ in sent[0]}) == 8
        assert {temperature for _, temperature in sent[0]} == {1.0}
        settings = summary_of(tmp_path)["settings"]
        assert (settings["temperature"], settings["seed_per_request"]) == (1.0, True)
        sweep(tmp_path, "--backend", f"a={a.url}", *options, "--one-seed", "--seed", "9")
        assert [chat.body["seed"] for chat in a.chats[8:]] == [9] * 8


def test_opening_connections_is_a_figure_of_its_own(tmp_path: Path) -> None:
    with FakeServer.in_thread(FAST) as server:
        sweep(tmp_path, "--backend", f"s={server.url}", "--concurrency", "3", "--requests", "6", *SMALL)
    point = point_of(tmp_path)
    assert (point["connect_ms"]["count"], point["reconnections"]) == (3, 0)
    assert 0 < point["connect_ms"]["mean"] <= point["connect_ms"]["max"]
