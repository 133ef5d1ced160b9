"""Chinese transcripts as characters: compatibility forms folded, simplified, without punctuation and blanks."""

from __future__ import annotations

import unicodedata

from ming_eval.evals.scoring.traditional import simplified


def chinese_tokens(text: str) -> list[str]:
    """Letters and digits of any script, one token each, in lower case."""
    folded = simplified(unicodedata.normalize("NFKC", text).casefold())
    return [char for char in folded if is_spoken(char)]


def is_spoken(char: str) -> bool:
    """True for letters, marks and numbers; false for punctuation, symbols and blanks."""
    return unicodedata.category(char)[0] in "LMN"


def is_han(char: str) -> bool:
    """True for a Chinese character, also of the rare blocks."""
    return "\u4e00" <= char <= "\u9fff" or "\u3400" <= char <= "\u4dbf" or "\U00020000" <= char <= "\U000323af"
