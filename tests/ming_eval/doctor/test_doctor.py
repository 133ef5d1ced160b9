"""`ming-eval doctor` against servers that are odd in one way each."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from aiohttp import web
from typer.testing import CliRunner

from ming_eval.cli import app
from ming_eval.doctor.asking import Questioner
from ming_eval.doctor.guessing import guess_dialect
from ming_eval.targets import Target
from tests.fakes import FakeServer, Fault, Script
from tests.ming_eval.client.helpers import run


def examine(script: Script, *options: str, server: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    """Exit code and the JSON."""
    with FakeServer.in_thread(script, **(server or {})) as fake:
        result = CliRunner().invoke(app, ["doctor", fake.url, "--json", "-", *options])
    return result.exit_code, json.loads(result.stdout)


def found(diagnosis: dict[str, Any], name: str) -> tuple[str, str]:
    finding = next(each for each in diagnosis["findings"] if each["name"] == name)
    return finding["status"], finding["detail"]


def lost(diagnosis: dict[str, Any]) -> str:
    return "\n".join(diagnosis["not_measurable"])


@pytest.mark.slow
def test_a_good_server_says_what_it_is() -> None:
    card = {"data": [{"id": "m", "owned_by": "vllm", "max_model_len": 2048}]}
    metrics = "vllm:num_requests_running 0\nvllm:num_requests_waiting 0\n"
    script = Script(count_prompt=False, gap_s=0.002)
    code, seen = examine(script, server={"models_body": card, "tokenizes": True, "metrics": metrics})
    assert (code, seen["dialect"], seen["model"], seen["can_be_measured"]) == (0, "vllm", "m", True)
    assert found(seen, "/v1/models") == ("ok", "m (context 2048)")
    assert found(seen, "/metrics") == ("ok", "running, waiting")
    assert found(seen, "/tokenize")[0] == "ok"
    assert found(seen, "max_completion_tokens")[0] == "ok"
    assert found(seen, "usage in a stream")[0] == "ok"
    assert found(seen, "image in") == ("odd", "taken and ignored: 5 prompt tokens, 5 without")
    assert "image" in lost(seen)


def test_no_usage_and_five_tokens_an_event() -> None:
    code, seen = examine(Script(usage=False))
    assert code == 0
    assert found(seen, "usage in a stream")[0] == "missing"
    assert "counted as events" in lost(seen)
    _, seen = examine(Script(tokens_per_event=5))
    assert found(seen, "tokens per event")[0] == "odd"
    assert "several come in one event" in lost(seen)


def test_a_list_of_models_that_is_closed_costs_no_more_than_names() -> None:
    code, seen = examine(Script(), server={"models_status": 403})
    assert (code, found(seen, "/v1/models")[0], seen["can_be_measured"]) == (0, "failed", True)
    assert "give it with --model" in lost(seen)
    assert "lets nobody in" not in lost(seen)


def test_a_server_that_ignores_lengths() -> None:
    _, seen = examine(Script(num_tokens=20), "--dialect", "ming")
    assert found(seen, "max_completion_tokens") == ("odd", "20 tokens came where 3 were allowed")
    assert found(seen, "ignore_eos")[0] == "odd"


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (Script(fault=Fault.HTTP_400, error="model is required"), "model is required"),
        (Script(fault=Fault.INBAND_ERROR), "engine died"),
        (Script(fault=Fault.MALFORMED), "malformed event"),
        (Script(fault=Fault.EMPTY), "no output"),
    ],
)
def test_exit_code_1_where_every_request_would_fail(script: Script, reason: str) -> None:
    code, seen = examine(script)
    assert (code, seen["can_be_measured"]) == (1, False)
    assert found(seen, "chat, streamed")[0] == "failed"
    assert reason in found(seen, "chat, streamed")[1]


def test_a_reply_without_finish_reason_would_not_count() -> None:
    code, seen = examine(Script(finish_reason=None))
    assert (code, found(seen, "finish reason")[0]) == (1, "missing")


@pytest.mark.slow
def test_a_server_that_never_answers_takes_no_longer_than_allowed() -> None:
    started_s = time.monotonic()
    code, seen = examine(Script(fault=Fault.NO_ANSWER), "--timeout", "0.3", "--max-time", "5")
    assert (code, seen["can_be_measured"]) == (1, False)
    assert "within 0.3 s" in found(seen, "chat, streamed")[1]
    assert time.monotonic() - started_s < 15


@pytest.mark.slow
def test_what_there_was_no_time_for_is_unseen() -> None:
    code, seen = examine(Script(gap_s=0.05), "--max-time", "2")
    assert code == 0
    assert found(seen, "media in")[0] == "unseen"
    assert "unknown: media in" in lost(seen)


def test_speech_without_a_rate_has_no_real_time_factor() -> None:
    code, seen = examine(Script(audio=(bytes(4800), bytes(4800))), "--dialect", "ming")
    assert (code, found(seen, "speech out")[0]) == (0, "odd")
    assert "sample rate" in lost(seen)


def test_nobody_there_is_exit_code_3() -> None:
    with FakeServer.in_thread() as fake:
        url = fake.url
    result = CliRunner().invoke(app, ["doctor", url])
    assert result.exit_code == 3
    assert "connection refused" in result.stderr


def test_a_connection_that_is_closed_although_the_reply_keeps_it() -> None:
    with FakeServer.in_thread(Script(close_after=True)) as fake:
        odd = CliRunner().invoke(app, ["doctor", fake.url]).stdout
        told = CliRunner().invoke(app, ["doctor", fake.url, "--header", "Connection: close"]).stdout
    assert "closed behind a streamed reply that says it is kept" in odd
    assert "give --header 'Connection: close'" in odd
    assert "a new one for each request" in told
    with FakeServer.in_thread() as fake:
        assert "kept for the next request" in CliRunner().invoke(app, ["doctor", fake.url]).stdout


def test_text_names_the_command_to_go_on_with() -> None:
    with FakeServer.in_thread() as fake:
        result = CliRunner().invoke(app, ["doctor", fake.url])
        assert f"ming-eval sweep --backend a={fake.url} --dialect openai" in result.stdout
    assert "What a run will not say:" in result.stdout


@pytest.mark.parametrize(
    ("routes", "cards", "dialect"),
    [
        ({("GET", "/props"): {"default_generation_settings": {}}}, [{"id": "m"}], "llamacpp"),
        ({("GET", "/get_model_info"): {"model_path": "m"}}, [{"id": "m"}], "sglang"),
        ({("POST", "/generate"): {}}, [], "mstar-native"),
        ({("POST", "/v1/chat/completions"): {}}, [{"id": "org/model@main"}], "transformers"),
        ({("GET", "/openapi.json"): {"paths": {"/load_model": {}}}}, [], "transformers"),
        ({("POST", "/v1/chat/completions"): {}}, [{"id": "m", "owned_by": "sglang"}], "sglang"),
        ({("GET", "/model_info"): {"model_path": "m"}}, [{"id": "m", "owned_by": "sglang-omni"}], "sglang-omni"),
        ({("POST", "/v1/chat/completions"): {}}, [{"id": "m", "owned_by": "somebody"}], "openai"),
    ],
)
def test_dialect_by_what_only_one_family_has(
    routes: dict[tuple[str, str], Any], cards: list[dict[str, Any]], dialect: str
) -> None:
    async def play() -> tuple[str, str]:
        served = web.Application()
        for (method, path), content in routes.items():
            served.router.add_route(method, path, _answering(content))
        runner = web.AppRunner(served)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            target = Target.at(site.name.replace(":0", f":{runner.addresses[0][1]}"))
            return await guess_dialect(Questioner(target, 5.0, time.monotonic() + 20), cards)
        finally:
            await runner.cleanup()

    assert run(play())[0] == dialect


def _answering(content: Any) -> Any:
    async def answer(_request: web.Request) -> web.Response:
        return web.json_response(content)

    return answer
