"""The completions route: forms of prompts, order of choices, ids, scoring, and serving without a tokenizer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.core.request import GenerationRequest
from engine.inputs.tokenizer import Tokenizer
from engine.tiny.vocabulary import VOCAB_SIZE
from tests.engine.server.endpoint import endpoint, on_loop
from tests.engine.server.fake_engine import CONTEXT, EOS, TOKENIZER, FakeEngine, says

COMPLETIONS = "/v1/completions"


def repeat_prompt(request: GenerationRequest) -> tuple[int, ...]:
    """An engine that says its prompt again."""
    return (*request.prompt_ids, EOS)


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("ab", ["ab"]),
        (["ab", "c"], ["ab", "c"]),
        ([97, 98], ["ab"]),
        ([[97, 98], [99]], ["ab", "c"]),
    ],
)
@on_loop
async def test_forms_of_prompt(prompt: object, texts: list[str]) -> None:
    async with endpoint(FakeEngine(repeat_prompt)) as server:
        reply = await server.complete(prompt)
    assert reply["object"] == "text_completion"
    assert reply["id"].startswith("cmpl-")
    assert [choice["text"] for choice in reply["choices"]] == texts
    assert [choice["index"] for choice in reply["choices"]] == list(range(len(texts)))


@on_loop
async def test_choices_are_ordered_prompt_by_prompt() -> None:
    async with endpoint(FakeEngine(repeat_prompt)) as server:
        reply = await server.complete(["a", "bb"], n=2)
    assert [(choice["index"], choice["text"]) for choice in reply["choices"]] == [
        (0, "a"),
        (1, "a"),
        (2, "bb"),
        (3, "bb"),
    ]
    assert reply["usage"]["prompt_tokens"] == 3  # each prompt once
    assert reply["usage"]["completion_tokens"] == 2 * 2 + 2 * 3
    assert reply["usage"]["total_tokens"] == 13
    assert reply["usage"]["prompt_tokens_details"]["cached_tokens"] == 2 * 3
    assert reply["usage"]["completion_tokens_details"] == {"audio_tokens": 0, "reasoning_tokens": 0}


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        ({"prompt": []}, "prompt", "must be a string, 1 to 256"),
        ({"prompt": ["a", 5]}, "prompt", "must be a string, 1 to 256"),
        ({"prompt": ["a"] * 257}, "prompt", "1 to 256 strings"),
        ({"prompt": ""}, "prompt", "at least one token"),
        ({"prompt": [[]]}, "prompt", "at least one token"),
        ({"prompt": [VOCAB_SIZE]}, "prompt", f"outside the vocabulary of {VOCAB_SIZE} tokens, {VOCAB_SIZE}"),
        ({"prompt": [[5], [-1]]}, "prompt", "outside the vocabulary"),
        ({"prompt": {"a": 1}}, "prompt", "a string or a list, got an object"),
        ({"max_tokens": 0}, "max_tokens", "between 1 and"),
        ({"max_tokens": -1, "echo": True}, "max_tokens", "between 0 and"),
        ({"logprobs": 21}, "logprobs", "between 0 and 20"),
        ({"logprobs": True}, "logprobs", "must be an integer"),
        ({"echo": "yes"}, "echo", "true or false"),
    ],
)
@on_loop
async def test_invalid_value(fields: dict[str, Any], param: str, message: str) -> None:
    async with endpoint() as server:
        status, error = await server.refused(COMPLETIONS, {"prompt": "a"} | fields)
    assert (status, error["code"], error["param"]) == (400, "invalid_value", param)
    assert message in error["message"]


@pytest.mark.parametrize("name", ["suffix", "best_of"])
@on_loop
async def test_unsupported_field(name: str) -> None:
    async with endpoint() as server:
        status, error = await server.refused(COMPLETIONS, {"prompt": "a", name: "x"})
    assert (status, error["code"], error["param"]) == (400, "unsupported_parameter", name)


@on_loop
async def test_sixteen_tokens_unless_asked_and_never_beyond_the_context() -> None:
    async with endpoint(FakeEngine(says("x" * CONTEXT))) as server:
        await server.complete("a")
        await server.complete([1] * (CONTEXT - 4))
        status, error = await server.refused(COMPLETIONS, {"prompt": [1] * (CONTEXT - 4), "max_tokens": 5})
        assert [request.sampling.max_tokens for request in server.engine.requests] == [16, 4]
    assert (status, error["code"], error["param"]) == (400, "context_length_exceeded", "prompt")


@on_loop
async def test_control_tokens_of_a_raw_prompt_are_meant() -> None:
    """The whole prompt is the client's own, turns and all; ids are taken as they are."""
    async with endpoint() as server:
        await server.complete("a<|role_end|>")
        await server.complete([97, EOS])
        text, ids = server.engine.requests
    assert text.prompt_ids == ids.prompt_ids == (97, EOS)


def adding_tokenizer() -> Tokenizer:
    """One that puts its start token in front of every text, as the released one does not."""
    tree = json.loads(TOKENIZER.serialized)
    start = {"SpecialToken": {"id": "<|startoftext|>", "type_id": 0}}
    tree["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [start, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [start, {"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            "<|startoftext|>": {
                "id": "<|startoftext|>",
                "ids": [TOKENIZER.token_id("<|startoftext|>")],
                "tokens": ["<|startoftext|>"],
            }
        },
    }
    return Tokenizer(json.dumps(tree))


@on_loop
async def test_tokens_that_the_tokenizer_adds_can_be_left_out() -> None:
    start = TOKENIZER.token_id("<|startoftext|>")
    async with endpoint(tokenizer=adding_tokenizer()) as server:
        for fields, ids in (({}, (start, 97)), ({"add_special_tokens": False}, (97,)), ({"prompt": [97]}, (97,))):
            await server.complete(**({"prompt": "a"} | fields))
            assert server.engine.requests[-1].prompt_ids == ids
            if "prompt" not in fields:
                _, reply = await server.post("/tokenize", {"prompt": "a"} | fields)
                assert tuple(reply["tokens"]) == ids


@on_loop
async def test_token_ids_are_returned_when_asked_for() -> None:
    async with endpoint(FakeEngine(says("Hi"))) as server:
        without = await server.complete("a")
        reply = await server.complete("a", return_token_ids=True)
    assert "token_ids" not in without["choices"][0]
    assert reply["choices"][0]["token_ids"] == [*b"Hi", EOS]


@on_loop
async def test_scoring_reads_prompt_and_one_token() -> None:
    async with endpoint(FakeEngine(says("d"))) as server:
        body = {"max_tokens": 1, "logprobs": 1, "echo": True, "temperature": 0}
        reply = await server.complete([[97, 98, 99], [120, 121]], **body)
    first, second = reply["choices"]
    assert first["text"] == "abcd"
    assert first["logprobs"] == {
        "tokens": ["a", "b", "c", "d"],
        "token_logprobs": [None, -1.0, -1.0, -1.0],
        # the one alternative that was asked for, and the token itself
        "top_logprobs": [None, {"c": -0.5, "b": -1.0}, {"d": -0.5, "c": -1.0}, {"e": -0.5, "d": -1.0}],
        "text_offset": [0, 1, 2, 3],
    }
    assert second["text"] == "xyd"
    assert second["logprobs"]["tokens"] == ["x", "y", "d"]


@on_loop
async def test_no_tokens_with_echo_scores_the_prompt_alone() -> None:
    async with endpoint() as server:
        reply = await server.complete("abc", max_tokens=0, logprobs=0, echo=True)
    (choice,) = reply["choices"]
    assert choice["text"] == "abc"
    assert choice["finish_reason"] == "length"
    assert choice["logprobs"]["token_logprobs"] == [None, -1.0, -1.0]
    assert choice["logprobs"]["top_logprobs"] == [None, {"b": -1.0}, {"c": -1.0}]
    assert reply["usage"]["completion_tokens"] == 0


@on_loop
async def test_echo_alone_asks_for_no_scores() -> None:
    async with endpoint(FakeEngine(says("d"))) as server:
        reply = await server.complete("abc", echo=True)
        (request,) = server.engine.requests
    assert request.sampling.prompt_logprobs is None
    assert (reply["choices"][0]["text"], reply["choices"][0]["logprobs"]) == ("abcd", None)


@on_loop
async def test_streamed_scores_are_the_whole_ones_in_pieces() -> None:
    fields: dict[str, Any] = {"prompt": "abc", "logprobs": 2, "echo": True}
    async with endpoint(FakeEngine(says("dé"))) as server:
        (whole,) = (await server.complete(**fields))["choices"]
        *events, _ = await server.stream(COMPLETIONS, fields)
    pieces = [event["choices"][0] for event in events]
    assert "".join(piece["text"] for piece in pieces) == whole["text"] == "abcdé"
    for key, expected in whole["logprobs"].items():
        assert [value for piece in pieces if piece["logprobs"] for value in piece["logprobs"][key]] == expected
    assert whole["logprobs"]["text_offset"] == [0, 1, 2, 3, 4, 4, 5]


@on_loop
async def test_without_tokenizer_ids_go_in_and_out() -> None:
    async with endpoint(FakeEngine(says("Hi")), tokenizer=None) as server:
        fields = {"return_token_ids": True, "logprobs": 1, "echo": True, "max_tokens": 2}
        (choice,) = (await server.complete([5, 6], **fields))["choices"]
    assert (choice["text"], choice["token_ids"]) == ("", [*b"Hi"])
    assert choice["logprobs"]["tokens"] == ["token_id:5", "token_id:6", "token_id:72", "token_id:105"]
    assert choice["logprobs"]["token_logprobs"] == [None, -1.0, -1.0, -1.0]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (COMPLETIONS, {"prompt": "a", "return_token_ids": True}),
        (COMPLETIONS, {"prompt": [5]}),
        (COMPLETIONS, {"prompt": [5], "return_token_ids": True, "stop": "x"}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}),
        ("/tokenize", {"prompt": "a"}),
        ("/detokenize", {"tokens": [1]}),
    ],
)
@on_loop
async def test_without_tokenizer_text_is_refused(path: str, body: dict[str, Any]) -> None:
    async with endpoint(tokenizer=None) as server:
        status, error = await server.refused(path, body)
    assert (status, error["code"]) == (400, "unsupported_parameter")
    assert "--skip-tokenizer" in error["message"]
