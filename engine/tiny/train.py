"""Learn the embedded model's merges: `python -m engine.tiny.train` rewrites `merges.txt` from `corpus.txt`.

Needed only when the corpus changes: the snapshot is made from the committed merges, and so does not depend on the
version of the library that learnt them.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from engine.inputs.tokenizer import BYTE_ALPHABET
from engine.tiny.vocabulary import MERGES_FILE, NUM_MERGES, PRE_TOKENIZER

CORPUS_FILE = Path(__file__).parent / "corpus.txt"

_MAX_TOKEN_BYTES = 12  # a long English word


def learn_merges(corpus: str) -> list[list[str]]:
    """The most frequent merges of byte-level pieces of `corpus`, in the order in which they apply."""
    tokenizer = _untrained()
    trainer = BpeTrainer(
        vocab_size=256 + NUM_MERGES,
        initial_alphabet=list(BYTE_ALPHABET),
        max_token_length=_MAX_TOKEN_BYTES,
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus.splitlines(keepends=True), trainer)
    merges: list[list[str]] = json.loads(tokenizer.to_str())["model"]["merges"]
    return merges


def _untrained() -> Tokenizer:
    tree = json.loads(Tokenizer(BPE()).to_str()) | {"pre_tokenizer": PRE_TOKENIZER}
    return Tokenizer.from_str(json.dumps(tree))


if __name__ == "__main__":
    learnt = learn_merges(CORPUS_FILE.read_text(encoding="utf-8"))
    MERGES_FILE.write_text("".join(f"{left} {right}\n" for left, right in learnt), encoding="utf-8")
