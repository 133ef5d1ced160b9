"""Routes that do not generate: model cards, health, version, metrics and the tokenizer."""

from __future__ import annotations

import re
from typing import Any

import pytest

from engine.ipc import Failed
from engine.source import engine_version
from tests.engine.server.endpoint import MODEL, chat_body, endpoint, on_loop
from tests.engine.server.fake_engine import CONTEXT, EOS, TOKENIZER, FakeEngine, says


@on_loop
async def test_model_cards() -> None:
    """Each name has a card, also one with a slash; the root is a name, never a directory."""
    async with endpoint(names=("ming", "org/alias")) as server:
        status, listing = await server.get("/v1/models")
        one = await server.get("/v1/models/org/alias")
        unknown = await server.get("/v1/models/other")
        created = server.service.created
    assert status == 200
    assert listing == {
        "object": "list",
        "data": [
            {
                "id": name,
                "object": "model",
                "created": created,
                "owned_by": "ming-eval",
                "root": "ming",
                "max_model_len": CONTEXT,
                "checkpoint_digest": "0" * 64,
            }
            for name in ("ming", "org/alias")
        ],
    }
    assert one == (200, listing["data"][1])
    assert unknown[0] == 404
    assert unknown[1]["error"]["code"] == "model_not_found"


@on_loop
async def test_answers_carry_the_name_that_was_asked_for() -> None:
    async with endpoint(names=("ming", "org/alias")) as server:
        assert (await server.chat(model="org/alias"))["model"] == "org/alias"
        assert (await server.chat())["model"] == "ming"


@on_loop
async def test_health_over_a_life() -> None:
    async with endpoint(is_ready=False) as server:
        async with server.session.get(server.url + "/health") as response:
            assert (response.status, await response.json()) == (503, {"status": "starting"})
            assert response.headers["Retry-After"] == "5"
        server.engine.start()
        server.service.open(None)
        assert await server.get("/health") == (200, {"status": "ok"})
        server.engine.handle.receive(Failed("out of memory"))
        async with server.session.get(server.url + "/health") as response:
            assert (response.status, await response.json()) == (503, {"status": "failed"})
            assert "Retry-After" not in response.headers


@on_loop
async def test_version_needs_no_engine() -> None:
    async with endpoint(is_ready=False) as server:
        assert await server.get("/version") == (200, {"version": engine_version()})


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/ming", "/tokenizer_info"])
@on_loop
async def test_cards_wait_for_the_engine(path: str) -> None:
    async with endpoint(is_ready=False) as server:
        status, reply = await server.get(path)
    assert (status, reply["error"]["code"]) == (503, "starting")


@on_loop
async def test_tokenize_counts_what_a_chat_would() -> None:
    async with endpoint() as server:
        for fields in ({}, {"reasoning_effort": "high"}):
            status, reply = await server.post("/tokenize", chat_body(**fields))
            usage = (await server.chat(**fields))["usage"]
            assert status == 200
            assert reply["count"] == len(reply["tokens"]) == usage["prompt_tokens"]
            assert tuple(reply["tokens"]) == server.engine.requests[-1].prompt_ids
            assert reply["max_model_len"] == CONTEXT


@on_loop
async def test_tokenize_without_generation_prompt_is_shorter() -> None:
    async with endpoint() as server:
        _, whole = await server.post("/tokenize", chat_body())
        _, short = await server.post("/tokenize", chat_body(add_generation_prompt=False))
    assert whole["tokens"][: short["count"]] == short["tokens"]
    assert whole["count"] > short["count"]


@pytest.mark.parametrize(("path", "body"), [("/tokenize", {"prompt": "a"}), ("/detokenize", {"tokens": [1]})])
@on_loop
async def test_tokenizer_routes_know_only_the_served_model(path: str, body: dict[str, Any]) -> None:
    async with endpoint() as server:
        assert (await server.post(path, body | {"model": MODEL}))[0] == 200
        status, error = await server.refused(path, body | {"model": "another"})
    assert (status, error["code"], error["param"]) == (404, "model_not_found", "model")


@on_loop
async def test_tokenize_and_back() -> None:
    async with endpoint() as server:
        assert await server.post("/tokenize", {"prompt": "é<|role_end|>"}) == (
            200,
            {"count": 3, "max_model_len": CONTEXT, "tokens": [0xC3, 0xA9, EOS]},
        )
        assert await server.post("/detokenize", {"tokens": [0xC3, 0xA9, EOS]}) == (200, {"prompt": "é<|role_end|>"})


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "prompt"),
        ("/tokenize", {"prompt": "a", "messages": []}, "prompt"),
        ("/tokenize", {"prompt": 5}, "prompt"),
        ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": [10**6]}, "tokens"),
        ("/detokenize", {}, "tokens"),
    ],
)
@on_loop
async def test_tokenizer_refuses(path: str, body: dict[str, object], param: str) -> None:
    async with endpoint() as server:
        status, error = await server.refused(path, body)
    assert (status, error["param"]) == (400, param)


@on_loop
async def test_tokenizer_info() -> None:
    async with endpoint() as server:
        status, info = await server.get("/tokenizer_info")
    assert status == 200
    assert info["eos_token"] == info["pad_token"] == "<|role_end|>"
    assert info["bos_token"] is None
    assert {"chat_template", "tokenizer_class"} <= info.keys()
    assert info["special_token_ids"] == sorted(TOKENIZER.special_ids.values())
    assert info["vocab_size"] == TOKENIZER.vocab_size > max(info["special_token_ids"])


def samples(text: str) -> dict[str, float]:
    """Exposition text to {name{labels}: value}; fails on a line of another form."""
    values = {}
    for line in text.splitlines():
        if line.startswith("#"):
            assert re.fullmatch(r"# (HELP|TYPE) \w+:\w+ .+", line), line
            continue
        match = re.fullmatch(r'(\w+:\w+\{model_name="ming"(?:,\w+="[^"]*")?\}) (\S+)', line)
        assert match, line
        values[match[1]] = float(match[2])
    return values


@on_loop
async def test_metrics() -> None:
    async with endpoint(FakeEngine(says("Hello"))) as server:
        await server.chat()
        await server.chat(max_tokens=3)
        await server.chat(stop="l")
        await server.refused("/v1/chat/completions", chat_body(temperature=9))
        async with server.session.get(server.url + "/metrics") as response:
            assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            values = samples(await response.text())

    def value(name: str, label: str = "") -> float:
        return values[f'ming:{name}{{model_name="ming"{label}}}']

    assert value("request_success_total", ',finished_reason="stop"') == 2
    assert value("request_success_total", ',finished_reason="length"') == 1
    assert value("request_success_total", ',finished_reason="abort"') == 0
    assert value("http_requests_rejected_total", ',reason="invalid_value"') == 1
    assert value("request_generation_tokens_count") == 3
    assert value("request_generation_tokens_sum") == 6 + 3 + 3
    assert value("request_generation_tokens_bucket", ',le="5"') == 2
    assert value("request_generation_tokens_bucket", ',le="+Inf"') == 3
    assert value("time_to_first_token_seconds_count") == 3
    assert value("inter_token_latency_seconds_count") == 5 + 2 + 2
    assert value("e2e_request_latency_seconds_count") == 3
    assert value("kv_cache_usage_perc") == 0
    for name in ("num_requests_running", "num_requests_waiting", "prompt_tokens_total", "num_preemptions_total"):
        value(name)
    for name in ("prefix_cache_queries_total", "prefix_cache_hits_total", "generation_tokens_total"):
        value(name)
    for name in ("queue_time", "prefill_time", "decode_time", "time_per_output_token"):
        assert value(f"request_{name}_seconds_count") == 3, name


@on_loop
async def test_metrics_under_both_names() -> None:
    async with endpoint(metrics_vllm_names=True) as server, server.session.get(server.url + "/metrics") as response:
        names = {key.partition("{")[0] for key in samples(await response.text())}
    assert {name.removeprefix("ming:") for name in names if name.startswith("ming:")} == {
        name.removeprefix("vllm:") for name in names if name.startswith("vllm:")
    }
