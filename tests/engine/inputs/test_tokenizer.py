from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import ConfigError
from engine.inputs.tokenizer import Tokenizer
from engine.tiny.vocabulary import tokenizer_config, tokenizer_json
from tests.engine.inputs.tokens import byte_fallback_tokenizer, tiny_tokenizer

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
END = "<|role_end|>"


def write_tokenizer(folder: Path, tree: Any, **config: Any) -> Path:
    (folder / "tokenizer.json").write_text(json.dumps(tree), encoding="utf-8")
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def test_control_tokens_in_plain_text_stay_text() -> None:
    tokenizer = tiny_tokenizer()
    end = tokenizer.special_ids[END]
    assert end in tokenizer.encode(f"stop{END}", special=True)
    plain = tokenizer.encode(f"stop{END}")
    assert not any(map(tokenizer.is_special, plain))
    assert tokenizer.decode(plain) == f"stop{END}"


def test_bytes_are_the_first_ids_and_words_are_single_tokens() -> None:
    tokenizer = tiny_tokenizer()
    assert tokenizer.encode("\x00~") == [0, 0x7E]
    assert [tokenizer.token_bytes(i) for i in tokenizer.encode("What is in this picture?")] == [
        b"What",
        b" is",
        b" in",
        b" this",
        b" picture",
        b"?",
    ]


@given(TEXT)
def test_text_survives_encoding(text: str) -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode()
    assert len(text) <= len(ids) * tokenizer.max_token_chars


def test_decode_hides_control_tokens_on_request() -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer.encode(f"a{END}b", special=True)
    assert tokenizer.decode(ids) == "ab"
    assert tokenizer.decode(ids, skip_special=False) == f"a{END}b"


def test_unused_rows_have_no_text() -> None:
    tokenizer = tiny_tokenizer()
    assert tokenizer.vocab_size == 2043  # the embedding has 2048 rows
    assert tokenizer.token_bytes(2047) == b""
    assert tokenizer.decode([104, 2047, 105]) == "hi"


def test_byte_fallback_spelling() -> None:
    tokenizer = byte_fallback_tokenizer()
    ids = tokenizer.encode(" hi é")
    assert [tokenizer.token_bytes(i) for i in ids] == [b" hi", b" ", b"\xc3", b"\xa9"]
    assert tokenizer.decode(ids) == " hi é"


def test_unknown_spelling_of_bytes_is_refused() -> None:
    tree = tokenizer_json() | {"decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True}}
    with pytest.raises(ConfigError, match="WordPiece"):
        Tokenizer(json.dumps(tree))


def test_stored_limits_do_not_cut_prompts() -> None:
    limits = {
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            "strategy": {"Fixed": 64},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        },
    }
    tokenizer = Tokenizer(json.dumps(tokenizer_json() | limits))
    for special in (False, True):
        assert tokenizer.encode("one two three four five six seven", special=special) == tiny_tokenizer().encode(
            "one two three four five six seven"
        )


def test_load_reads_names_of_tokens_from_either_file(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, tokenizer_json(), eos_token={"content": END, "special": True})
    names = {"eos_token": "[CLS]", "pad_token": "<|endoftext|>"}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(names), encoding="utf-8")
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.eos_token_id == tokenizer.special_ids[END]
    assert tokenizer.pad_token_id == tokenizer.special_ids["<|endoftext|>"]
    assert tokenizer.bos_token_id is None


def test_load_finds_the_chat_template_wherever_it_is(tmp_path: Path) -> None:
    assert Tokenizer.load(write_tokenizer(tmp_path, tokenizer_json())).chat_template is None
    write_tokenizer(tmp_path, tokenizer_json(), **tokenizer_config() | {"chat_template": "key"})
    assert Tokenizer.load(tmp_path).chat_template == "key"
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "named"}]
    write_tokenizer(tmp_path, tokenizer_json(), chat_template=named)
    assert Tokenizer.load(tmp_path).chat_template == "named"
    (tmp_path / "chat_template.jinja").write_text("file", encoding="utf-8")
    assert Tokenizer.load(tmp_path).chat_template == "file"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no tokenizer.json; name the directory that has it with --tokenizer"),
        ("{", "not valid JSON"),
        ("[]", "no JSON object"),
        ('{"model": {"type": "BPE"}}', r"no model\.vocab"),
    ],
)
def test_load_says_what_is_wrong(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        Tokenizer.load(tmp_path)


def test_a_named_token_must_exist(tmp_path: Path) -> None:
    write_tokenizer(tmp_path, tokenizer_json(), eos_token="</s>")
    with pytest.raises(ConfigError, match="'</s>'"):
        Tokenizer.load(tmp_path)
