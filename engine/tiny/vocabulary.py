"""The embedded model's tokenizer: byte-level BPE over a small committed list of merges, with Ming's control tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.inputs.template_check import CHAT_TEMPLATE
from engine.inputs.tokenizer import BYTE_ALPHABET

MERGES_FILE = Path(__file__).parent / "merges.txt"
NUM_MERGES = 1742
NUM_RESERVED = 8  # the released vocabulary has 251 of them
NUM_UNUSED = 5  # embedding rows without a token, as released

# In the released order: the end of an image is its patch token + 2, and so on.
SPECIAL_TOKENS = (
    *("<|startoftext|>", "<|endoftext|>", "[CLS]", "[gMASK]", "<|role_end|>"),
    *("<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
    *(f"<|reserved_token_{n}|>" for n in range(5, 5 + NUM_RESERVED)),
    *("<role>", "</role>", "<|arithmetic_end|>", "<|number_end|>", "<|arithmetic_start|>", "<|number_start|>"),
    *("<imagePatch>", "<image>", "</image>", "<video>", "</video>"),
    *("<gen_imagePatch>", "<gen_image>", "</gen_image>", "<imageHere>", "<end_of_chunk>", "<end_of_audio>"),
    *("<audioPatch>", "<audio>", "</audio>", "<gen_audioPatch>", "<gen_audio>", "</gen_audio>", "<audioHere>"),
    *("<framePatch>", "<text>", "<asr>", "<tts>"),
)

NUM_TEXT_TOKENS = 256 + NUM_MERGES
SPECIAL_IDS = {token: NUM_TEXT_TOKENS + n for n, token in enumerate(SPECIAL_TOKENS)}
VOCAB_SIZE = NUM_TEXT_TOKENS + len(SPECIAL_TOKENS) + NUM_UNUSED

# No merge crosses these borders: each Chinese character is by itself; otherwise a word with the space before it,
# one digit, a run of signs, or white space.
_HAN = r"\p{Han}"
_PIECES = r" ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

PRE_TOKENIZER: dict[str, Any] = {
    "type": "Sequence",
    "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": _HAN}, "behavior": "Isolated", "invert": False},
        {"type": "Split", "pattern": {"Regex": _PIECES}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    ],
}


def tokenizer_json(special_ids: Mapping[str, int] = SPECIAL_IDS) -> dict[str, Any]:
    """The content of `tokenizer.json`: ids 0 to 255 are the bytes, then merges, then control tokens."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i} | _added_token(token) for token, i in special_ids.items()],
        "normalizer": None,
        "pre_tokenizer": PRE_TOKENIZER,
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {text: i for i, text in enumerate(_text_tokens())},
            "merges": _read_merges(),
        },
    }


def tokenizer_config(special_ids: Mapping[str, int] = SPECIAL_IDS) -> dict[str, Any]:
    """The content of `tokenizer_config.json`, chat template included."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 32768,
        **special_tokens_map(),
        "added_tokens_decoder": {str(i): _added_token(token) for token, i in special_ids.items()},
        "chat_template": CHAT_TEMPLATE,
    }


def special_tokens_map() -> dict[str, Any]:
    """The content of `special_tokens_map.json`: which token has which role."""
    return {
        "bos_token": "<|startoftext|>",
        "cls_token": "[CLS]",
        "eos_token": "<|role_end|>",
        "pad_token": "<|role_end|>",
    }


def unreadable_ids() -> list[int]:
    """Ids that are no text on their own: parts of characters, control characters, control tokens, unused rows."""
    spelled = [bytes(BYTE_ALPHABET[char] for char in token) for token in _text_tokens()]
    broken = [i for i, text in enumerate(spelled) if not _is_readable(text)]
    return [*broken, *range(NUM_TEXT_TOKENS, VOCAB_SIZE)]


def _read_merges() -> list[list[str]]:
    """The committed merges, in the order in which they apply."""
    merges = [line.split(" ") for line in MERGES_FILE.read_text(encoding="utf-8").splitlines()]
    assert len(merges) == NUM_MERGES, f"merges.txt has {len(merges)} lines; learn them again"
    return merges


def _text_tokens() -> list[str]:
    """Byte-level spelling of ids 0 up to the control tokens."""
    return sorted(BYTE_ALPHABET, key=BYTE_ALPHABET.__getitem__) + ["".join(merge) for merge in _read_merges()]


def _added_token(content: str) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"content": content} | flags


def _is_readable(text: bytes) -> bool:
    try:
        return text.decode().replace("\n", " ").isprintable()
    except UnicodeDecodeError:
        return False
