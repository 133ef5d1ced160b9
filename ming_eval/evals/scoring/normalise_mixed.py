"""Text of several scripts: Chinese by character, everything else by word."""

from __future__ import annotations

import unicodedata
from itertools import groupby

from ming_eval.evals.scoring.normalise_chinese import is_han, is_spoken
from ming_eval.evals.scoring.normalise_english import english_tokens
from ming_eval.evals.scoring.traditional import simplified


def mixed_tokens(text: str) -> list[str]:
    """Han characters one by one, and what stands between them as normalised English words."""
    folded = simplified(unicodedata.normalize("NFKC", text))
    tokens: list[str] = []
    for chars_are_han, chars in groupby(folded, key=is_han):
        run = "".join(chars)
        tokens += list(run) if chars_are_han else english_tokens(run)
    return tokens


def plain_tokens(text: str) -> list[str]:
    """Words in lower case without punctuation, but with their apostrophes: for languages without rules of their own."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    return "".join(char if is_spoken(char) or char == "'" else " " for char in folded).split()
