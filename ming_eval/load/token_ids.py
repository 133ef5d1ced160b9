"""Prompts in token ids: exactly as long as asked, over the whole vocabulary, with nothing around them.

What streams have in common, such as a chat template, makes them alike: in a mixture of experts with drawn weights they
then share experts, and read fewer weights than streams that have nothing to do with each other.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ming_eval.client import probe
from ming_eval.errors import DataError, UsageError
from ming_eval.load.synthetic import tokenizer_json
from ming_eval.targets import Target


@dataclass(frozen=True, slots=True)
class TokenIds:
    """The ids that prompts are drawn from; `source` is who says so, for people."""

    ids: Sequence[int]
    source: str

    def __str__(self) -> str:
        count = len(self.ids)
        return f"{count:,} token id{'' if count == 1 else 's'}, by {self.source}"

    def draw(self, num_tokens: int, rng: random.Random) -> tuple[int, ...]:
        """A prompt of `num_tokens`."""
        return tuple(rng.choices(self.ids, k=num_tokens))


async def find_token_ids(target: Target, vocabulary: int | None, tokenizer: Path | None) -> TokenIds:
    """What was given, else what the server's /tokenizer_info says.

    Raises:
        DataError: `tokenizer` cannot be read.
        UsageError: nothing was given, and the server does not say.
        TargetError: nobody listens.
    """
    given = given_token_ids(vocabulary, tokenizer)
    if given is not None:
        return given
    ids = await probe.fetch_text_ids(target)
    if not ids:
        raise UsageError(
            f"{target.name} does not say which token ids it has: give --vocabulary N, to draw from 0 to N-1 (less than "
            "all where control tokens stand at the end), or --tokenizer FILE"
        )
    return TokenIds(ids, "the server")


def given_token_ids(vocabulary: int | None, tokenizer: Path | None) -> TokenIds | None:
    """Those below `vocabulary`, else those of the file that are no control tokens; None where neither is given.

    Raises:
        DataError: `tokenizer` cannot be read.
    """
    if vocabulary is not None:
        return TokenIds(range(vocabulary), "--vocabulary")
    return None if tokenizer is None else TokenIds(_ids_of(tokenizer), "--tokenizer")


class _Model(msgspec.Struct):
    vocab: dict[str, int] | list[tuple[str, float]]  # by token; of a Unigram model, by place


class _Added(msgspec.Struct):
    id: int
    special: bool = False


class _File(msgspec.Struct):
    model: _Model
    added_tokens: list[_Added] = []


def _ids_of(path: Path) -> list[int]:
    try:
        content = msgspec.json.decode(tokenizer_json(path), type=_File)
    except msgspec.ValidationError as exc:
        raise DataError(f"{path} is no tokenizer.json: {exc}") from exc
    vocab = content.model.vocab
    known = set(vocab.values()) if isinstance(vocab, dict) else set(range(len(vocab)))
    text = known.difference(token.id for token in content.added_tokens if token.special)
    if not text:
        raise DataError(f"{path} has no tokens but control tokens")
    return sorted(text)
