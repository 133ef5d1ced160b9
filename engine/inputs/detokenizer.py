"""Token ids to text, one at a time, without ever splitting a character."""

from __future__ import annotations

import codecs

from engine.inputs.tokenizer import Tokenizer


class Detokenizer:
    """Text of one growing sequence: the pieces joined are the text of the whole.

    Control tokens give no text. Bytes of an unfinished character are held back; bytes that can no longer
    become one are U+FFFD.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The text that this token completed, possibly none."""
        if self._tokenizer.is_special(token_id):
            return ""
        return self._decoder.decode(self._tokenizer.token_bytes(token_id))

    def flush(self) -> str:
        """End of the sequence: a broken rest as U+FFFD, usually nothing."""
        return self._decoder.decode(b"", final=True)
