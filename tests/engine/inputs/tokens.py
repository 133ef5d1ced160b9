"""Tokenizers for tests, without writing a snapshot."""

from __future__ import annotations

import json
from functools import cache

from engine.inputs.tokenizer import Tokenizer
from engine.tiny.vocabulary import special_tokens_map, tokenizer_config, tokenizer_json


@cache
def tiny_tokenizer() -> Tokenizer:
    template = tokenizer_config()["chat_template"]
    return Tokenizer(json.dumps(tokenizer_json()), roles=special_tokens_map(), chat_template=template)


@cache
def byte_fallback_tokenizer() -> Tokenizer:
    """A vocabulary in the style of SentencePiece: `▁` for a space, bytes as `<0x..>` for what it does not know."""
    pieces = ["<unk>", *(f"<0x{b:02X}>" for b in range(256)), "▁", "h", "i", "▁h", "▁hi"]
    tree = tokenizer_json() | {"added_tokens": [], "pre_tokenizer": None}
    tree["normalizer"] = {
        "type": "Sequence",
        "normalizers": [{"type": "Replace", "pattern": {"String": " "}, "content": "▁"}],
    }
    tree["decoder"] = {
        "type": "Sequence",
        "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"},
            {"type": "Fuse"},
        ],
    }
    tree["model"] |= {
        "byte_fallback": True,
        "unk_token": "<unk>",
        "vocab": {piece: i for i, piece in enumerate(pieces)},
        "merges": [["▁", "h"], ["▁h", "i"]],
    }
    return Tokenizer(json.dumps(tree))
