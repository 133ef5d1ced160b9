"""Text to token ids and back, from a snapshot's `tokenizer.json`; no code of the snapshot is ever run."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tokenizers

from engine.errors import ConfigError

_ROLES = ("bos_token", "eos_token", "pad_token")


class Tokenizer:
    """A `tokenizer.json` with the two readings of text that a server needs.

    Text of a client is read with control tokens disabled, so that nobody can end a turn or fake an image by
    spelling it; a raw prompt is read as the tokenizer was made to. Safe to use from several threads.

    Attributes:
        vocab_size: one more than the largest id; the model's embedding may have further, unused rows.
        special_ids: control tokens by their text.
        chat_template: the snapshot's own Jinja template, if it has one.
        max_token_chars: no token stands for more characters than this.
    """

    def __init__(
        self,
        serialized: str,
        *,
        roles: Mapping[str, str] | None = None,
        chat_template: str | None = None,
    ) -> None:
        """Build from the text of a `tokenizer.json`; `roles` names the tokens that are `bos_token`, `eos_token`, ..."""
        self._marked = _parse(serialized)
        self._plain = _parse(serialized)
        self._plain.encode_special_tokens = True  # the library's name for: control tokens are ordinary text
        self._spell = _speller(self._marked)
        added = self._marked.get_added_tokens_decoder()
        self._bytes: dict[int, bytes] = {i: token.content.encode() for i, token in added.items()}
        vocab = self._marked.get_vocab(with_added_tokens=True)
        self.special_ids: Mapping[str, int] = MappingProxyType({t.content: i for i, t in added.items() if t.special})
        self._special = frozenset(self.special_ids.values())
        self.vocab_size = max(vocab.values()) + 1
        self.max_token_chars = max(map(len, vocab))  # a byte-level token has a character for each byte: an upper bound
        self.chat_template = chat_template
        named = roles or {}
        self.bos_token_id, self.eos_token_id, self.pad_token_id = (
            self.token_id(named[role]) if role in named else None for role in _ROLES
        )

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Read the tokenizer files of directory `path`: `tokenizer.json`, and beside it what is there of
        `tokenizer_config.json`, `special_tokens_map.json` and `chat_template.jinja`.

        Raises:
            ConfigError: `tokenizer.json` is missing, a file is not valid, or a named token is not in the vocabulary.
        """
        file = path / "tokenizer.json"
        if not file.is_file():
            raise ConfigError(f"{path}: no tokenizer.json; name the directory that has it with --tokenizer")
        serialized = file.read_text(encoding="utf-8")
        tree = _decode_json(file, serialized)
        if not isinstance(tree.get("model"), dict) or "vocab" not in tree["model"]:
            raise ConfigError(f"{file}: has no model.vocab; this is not the file of the tokenizers library")
        config = _read_json(path / "tokenizer_config.json")
        roles = _roles(_read_json(path / "special_tokens_map.json") | config)
        return cls(serialized, roles=roles, chat_template=_chat_template(path, config))

    @property
    def serialized(self) -> str:
        """The text of a `tokenizer.json` with the same tokens."""
        return self._marked.to_str()

    def encode(self, text: str, *, special: bool = False, add: bool = True) -> list[int]:
        """Ids of `text`. With `special`, control tokens spelled in it become their ids, and with `add` the tokenizer
        adds what it is set up to add; without, all of it is plain text."""
        if special:
            return self._marked.encode(text, add_special_tokens=add).ids
        return self._plain.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of a whole sequence; broken characters become U+FFFD, ids without a token nothing."""
        return self._marked.decode(ids, skip_special_tokens=skip_special)

    def token_bytes(self, token_id: int) -> bytes:
        """The exact bytes that a token stands for, possibly part of a character; empty for an unused id."""
        found = self._bytes.get(token_id)
        if found is None:
            token = self._marked.id_to_token(token_id)
            found = self._bytes[token_id] = b"" if token is None else self._spell(token)
        return found

    def is_special(self, token_id: int) -> bool:
        """Whether an id is a control token, which is not part of the text."""
        return token_id in self._special

    def token_id(self, token: str) -> int:
        """The id of a token by its exact text.

        Raises:
            ConfigError: the vocabulary has no such token.
        """
        found = self._marked.token_to_id(token)
        if found is None:
            raise ConfigError(f"the tokenizer has no token {token!r}; this is not a tokenizer of Ming-flash-omni")
        return found


def _parse(serialized: str) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer.from_str(serialized)
    tokenizer.no_padding()  # a stored limit or padding would silently change a prompt
    tokenizer.no_truncation()
    return tokenizer


def _decode_json(file: Path, text: str) -> dict[str, Any]:
    try:
        tree = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"{file}: not valid JSON ({error}); fetch the file again") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{file}: holds no JSON object; fetch the file again")
    return tree


def _read_json(file: Path) -> dict[str, Any]:
    """The object in `file`, empty if there is no such file."""
    return _decode_json(file, file.read_text(encoding="utf-8")) if file.is_file() else {}


def _roles(config: Mapping[str, Any]) -> dict[str, str]:
    """Texts of the named tokens; a value is either the text or an object with `content`."""
    named = {role: config.get(role) for role in _ROLES}
    texts = {role: value.get("content") if isinstance(value, dict) else value for role, value in named.items()}
    return {role: text for role, text in texts.items() if isinstance(text, str)}


def _chat_template(path: Path, config: Mapping[str, Any]) -> str | None:
    """The snapshot's template: a file of its own in newer snapshots, a key (or a list by name) in older ones."""
    file = path / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        template = next((entry["template"] for entry in template if entry.get("name") == "default"), None)
    return template if isinstance(template, str) else None


def _byte_alphabet() -> dict[str, int]:
    """What byte-level vocabularies write bytes with: printable Latin-1 as it is, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(printable))
    return {chr(b): b for b in printable} | {chr(0x100 + n): b for n, b in enumerate(others)}


BYTE_ALPHABET = _byte_alphabet()
_BYTE_TOKEN = re.compile("<0x([0-9A-F]{2})>")


def _spell_byte_level(token: str) -> bytes:
    try:
        return bytes(BYTE_ALPHABET[char] for char in token)
    except KeyError:
        return token.encode()  # spelled outside the alphabet: the library takes such a token literally


def _spell_byte_fallback(token: str) -> bytes:
    """`<0xE4>` is a byte, `▁` a space, anything else is itself."""
    byte = _BYTE_TOKEN.fullmatch(token)
    return bytes.fromhex(byte[1]) if byte else token.replace("▁", " ").encode()


def _speller(tokenizer: tokenizers.Tokenizer) -> Callable[[str], bytes]:
    """How this vocabulary writes bytes, told by the decoder that undoes it."""
    decoder = json.loads(tokenizer.decoder.__getstate__()) if tokenizer.decoder else {}
    kinds = {part["type"] for part in decoder.get("decoders", [decoder]) if "type" in part}
    if "ByteLevel" in kinds:
        return _spell_byte_level
    if kinds & {"ByteFallback", "Metaspace"}:
        return _spell_byte_fallback
    raise ConfigError(
        f"tokenizer.json: decoder {decoder.get('type')} is not supported; byte-level and byte-fallback vocabularies are"
    )
