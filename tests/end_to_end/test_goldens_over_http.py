"""Outputs of the released code, reached by token ids through the server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.end_to_end.server import RunningServer, running_server

pytestmark = pytest.mark.slow  # real processes, real files

CASE = Path(__file__).parents[1] / "goldens" / "understanding" / "a_thinker_text"


@pytest.fixture(scope="module", params=["1", "2"], ids=["tp1", "tp2"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    folder = tmp_path_factory.mktemp("server")
    options = ("--model", str(CASE), "--skip-tokenizer", "--kv-tokens", "1024", "--tp", request.param)
    with running_server(folder, *options) as server:
        yield server


def test_greedy_tokens(server: RunningServer) -> None:
    ids = load_file(CASE / "inputs.safetensors")["input_ids"][0].tolist()
    expected = load_file(CASE / "expected.safetensors")
    tokens = expected["greedy.tokens"].tolist()
    body = {"prompt": ids, "max_tokens": len(tokens), "temperature": 0, "ignore_eos": True, "return_token_ids": True}
    status, answer = server.post("/v1/completions", body)
    assert status == 200
    assert answer["choices"][0]["token_ids"] == tokens
    assert answer["usage"]["prompt_tokens"] == len(ids)
    assert answer["usage"]["completion_tokens"] == len(tokens)


def test_text_is_refused_without_a_tokenizer(server: RunningServer) -> None:
    status, answer = server.chat("Hello")
    assert status == 400
    assert "--skip-tokenizer" in answer["error"]["message"]
