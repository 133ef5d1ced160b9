"""Labels of a closed set: the reply is the label, or names exactly one of the set."""

from __future__ import annotations

import re

from ming_eval.evals.item import Item, Reason, Reply, Score, judged, unparsed
from ming_eval.evals.scoring.prepare import prepare
from ming_eval.evals.scoring.refusal import reason_of
from ming_eval.evals.scoring.text import answer_part


def score_label(item: Item, reply: Reply) -> Score:
    """Right when the reply's label is the item's; `item.choices` holds every label of the set."""
    text = prepare(reply.text)
    if not text:
        return unparsed(reason_of(text, reply))
    gold = {plain(label) for label in item.gold_texts}
    rule, answer = answer_part(text)
    labels = {plain(label) for label in item.choices} or gold
    if plain(answer) in labels:
        return judged(plain(answer) in gold, rule, plain(answer))
    named = _named(plain(text), labels)
    if len(named) == 1:
        return judged(named[0] in gold, "named", named[0])
    return unparsed(Reason.AMBIGUOUS if named else reason_of(text, reply))


def plain(label: str) -> str:
    """Lower case words; `ice_cream`, `IceCream` and `ice cream` are one label."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", label)
    return " ".join(re.sub(r"[\W_]+", " ", spaced).casefold().split())


def _named(text: str, labels: set[str]) -> list[str]:
    """Labels that stand in the text as words, without those that are only part of a longer one there."""
    found = [label for label in labels if re.search(rf"\b{re.escape(label)}\b", text)]
    longest_first = sorted(found, key=len, reverse=True)
    named = []
    for label in longest_first:
        if re.search(rf"\b{re.escape(label)}\b", text):
            named.append(label)
            text = re.sub(rf"\b{re.escape(label)}\b", "\0", text)
    return named
