"""Prompts of a known length, by each of the three ways to know it."""

from __future__ import annotations

import asyncio
import json
import random
import sys
from pathlib import Path

import pytest

from ming_eval.errors import DataError, TargetError, UsageError
from ming_eval.load.synthetic import LengthSource, Vocabulary, find_vocabulary
from ming_eval.load.workload import load_prompts
from ming_eval.targets import Target
from tests.fakes import FakeServer, Script, count_tokens

TEXTS = [prompt.text for prompt in load_prompts("chat")]


def find(server: FakeServer, tokenizer: Path | None = None) -> Vocabulary:
    async def play() -> Vocabulary:
        async with server:
            return await find_vocabulary(Target.at(server.url, model="m"), TEXTS, tokenizer)

    return asyncio.run(play())


def lengths_of(vocabulary: Vocabulary, num_tokens: int) -> list[int]:
    return [count_tokens(vocabulary.text(num_tokens, random.Random(i))) for i in range(50)]


@pytest.mark.slow
def test_by_the_servers_tokenizer_lengths_are_exact() -> None:
    vocabulary = find(FakeServer(tokenizes=True))
    assert (vocabulary.source, vocabulary.tokens_per_word) == (LengthSource.SERVER, 1.0)
    assert len(vocabulary.words) > 200
    assert max(map(len, vocabulary.words)) == 6  # longer ones are two tokens there
    assert set(lengths_of(vocabulary, 123)) == {123}


def test_by_a_file_where_the_server_does_not_tokenize(tmp_path: Path) -> None:
    """A tokenizer that knows single letters only knows no word as one token; one of whole words knows all of them."""
    tokenizers = pytest.importorskip("tokenizers")
    words = sorted({word.lower() for text in TEXTS for word in text.split()} | {"the", "[UNK]"})
    model = tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    vocabulary = find(FakeServer(), path)
    assert vocabulary.source is LengthSource.TOKENIZER
    assert {len(tokenizer.encode(vocabulary.text(40, random.Random(i))).ids) for i in range(20)} == {40}


def test_by_usage_where_there_is_nothing_better() -> None:
    vocabulary = find(FakeServer(Script(count_prompt=True)))
    assert vocabulary.source is LengthSource.ESTIMATE
    lengths = lengths_of(vocabulary, 400)
    assert sum(lengths) / len(lengths) == pytest.approx(400, rel=0.08)
    assert len(set(lengths)) > 1  # an estimate, and called one


def test_a_server_that_tells_nothing_is_an_error_that_names_the_way_out() -> None:
    with pytest.raises(TargetError, match="--tokenizer FILE"):
        find(FakeServer())  # its prompt tokens do not grow with the prompt


@pytest.mark.parametrize("content", ["no json", json.dumps({"a": 1})])
def test_a_file_that_is_no_tokenizer(tmp_path: Path, content: str) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(DataError, match="tokenizer"):
        find(FakeServer(), path)


def test_a_missing_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UsageError, match="pip install tokenizers"):
        find(FakeServer(), tmp_path / "tokenizer.json")
