"""Short texts: equal after normalisation, contained, by overlap of words, by edit distance, or as numbers."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable
from fractions import Fraction

from ming_eval.evals.item import Item, Outcome, Reply, Score, unparsed
from ming_eval.evals.scoring.edits import edit_distance
from ming_eval.evals.scoring.number import find_number, is_equal, is_sensible
from ming_eval.evals.scoring.prepare import prepare
from ming_eval.evals.scoring.refusal import reason_of

_CUE = re.compile(r"\b(?:final\s+|short\s+)?answer\s*(?:is\b\s*:?|:)\s*", re.IGNORECASE)
_ARTICLE = re.compile(r"\b(?:a|an|the)\b")
_PLAIN_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)")
_AROUND_NUMBERS = str.maketrans("", "", "$€£¥% ,")
# Punctuation, but not what a number is written with: 3.5 is not 35, -5 not 5, 1/2 not 12.
_PUNCTUATION = re.compile(rf"(?!(?<=\d)[./:\-]\d|(?<!\w)-\d)[{re.escape(string.punctuation)}。，、；：？！“”‘’（）]")
_ANLS_LIMIT = 0.5  # below this similarity an answer counts nothing (Biten et al., ICCV 2019)


def score_text(item: Item, reply: Reply, metric: str = "exact", tolerance: float | None = None) -> Score:
    """The best value of the reply against any accepted answer; right when that is 1."""
    text = prepare(reply.text)
    if not text:
        return unparsed(reason_of(text, reply))
    rule, answer = answer_part(text)
    value = max(_METRICS[metric](answer, gold, tolerance) for gold in item.gold_texts)
    return Score(Outcome.CORRECT if value == 1.0 else Outcome.WRONG, value, rule, extracted=answer[:200])


def answer_part(text: str) -> tuple[str, str]:
    """What follows the last `answer:` on its line, else the whole reply, with the name of the rule."""
    cues = list(_CUE.finditer(text))
    if cues and (line := text[cues[-1].end() :].partition("\n")[0].strip()):
        return "marked", line
    return "whole", text


def normalise(text: str) -> str:
    """Lower case without punctuation and articles, single blanks; an article alone stays, such as the blood group A."""
    plain = " ".join(_PUNCTUATION.sub("", text.casefold()).split())
    return " ".join(_ARTICLE.sub(" ", plain).split()) or plain


def exact(answer: str, gold: str, _tolerance: float | None = None) -> float:
    """1 when both are the same number, or equal after normalisation."""
    said, wanted = _number(answer), _number(gold)
    if said is not None and wanted is not None:
        return float(said == wanted)
    return float(normalise(answer) == normalise(gold))


def _number(text: str) -> Fraction | None:
    """The value of a text that is nothing but a number, with a currency or per cent sign or without."""
    bare = text.strip().removesuffix(".").translate(_AROUND_NUMBERS)
    return Fraction(bare) if _PLAIN_NUMBER.fullmatch(bare) and is_sensible(bare) else None


def contains(answer: str, gold: str, _tolerance: float | None = None) -> float:
    """1 when the answer holds the gold text; case and white space do not count."""
    return float("".join(gold.casefold().split()) in "".join(answer.casefold().split()))


def f1(answer: str, gold: str, _tolerance: float | None = None) -> float:
    """Harmonic mean of the precision and recall of words."""
    said, wanted = Counter(normalise(answer).split()), Counter(normalise(gold).split())
    shared = (said & wanted).total()
    if shared == 0:
        return float(said == wanted)
    precision, recall = shared / said.total(), shared / wanted.total()
    return 2 * precision * recall / (precision + recall)


def anls(answer: str, gold: str, _tolerance: float | None = None) -> float:
    """1 - edit distance / length of the longer text; 0 below one half."""
    said, wanted = " ".join(answer.casefold().split()), " ".join(gold.casefold().split())
    longest = max(len(said), len(wanted))
    similarity = 1.0 - edit_distance(said, wanted) / longest if longest else 1.0
    return similarity if similarity >= _ANLS_LIMIT else 0.0


def relaxed(answer: str, gold: str, tolerance: float | None = None) -> float:
    """1 when both are numbers within `tolerance` of the gold one, or equal texts (ChartQA)."""
    wanted, said = find_number(gold), find_number(answer)
    is_number = re.fullmatch(r"[-+]?[$€£]?[\d.,]+\s?%?", gold.strip()) is not None
    if is_number and wanted is not None:
        return float(said is not None and is_equal(said[1], Fraction(wanted[1]), tolerance))
    return exact(answer, gold)


Metric = Callable[[str, str, float | None], float]
_METRICS: dict[str, Metric] = {"exact": exact, "contains": contains, "f1": f1, "anls": anls, "relaxed": relaxed}
TEXT_METRICS = tuple(_METRICS)
