"""Multiple choice: the letter that a reply names, by the first rule that applies; never a guess.

The rules and their order are the accuracy protocol's. A reply that none of them reads is unparsed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from string import ascii_uppercase

from ming_eval.evals.item import Item, Reason, Reply, Score, judged, unparsed
from ming_eval.evals.scoring.prepare import prepare
from ming_eval.evals.scoring.refusal import reason_of


@dataclass(frozen=True, slots=True)
class Question:
    """What a reply is held against: valid letters and what they stand for."""

    letters: str
    choices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Named:
    """A letter in a reply, and what follows it there."""

    letter: str
    after: str = ""


Rule = Callable[[str, Question], Named | None]

# --- Patterns ----------------------------------------------------------------------------------------------------

_NOT_IN_WORD = r"(?:(?![A-Za-z\u00c0-\u024f0-9'’])|(?<=['‘][A-Za-z])(?=['’](?![A-Za-z])))"  # 'C' is a quotation
_OPEN, _CLOSE = r"[(\[{<\"'“‘「『]", r"[)\]}>\"'”’」』]"
_BE = r"(?:is|are|(?:would|should|must|will|has\s+to)\s+be)"
_ABOUT = r"(?:\s+(?:to|for)\s+[^.:;\n]{1,60}?)?"  # the answer to this question is
_CUE = re.compile(
    r"(?:(?<!this\s)(?<!that\s)(?<!each\s)(?<!other\s)"
    rf"\b(?:answer|option|choice)s?{_ABOUT}\s*(?:\s{_BE}\b|:)"
    r"|\bI\s+(?:choose|pick|select)\b"
    r"|答案\s*(?:是|为|為|:)"
    r"|正确选项|正確選項"
    r"|(?:选择|選擇|选|選)(?![项項])"
    r"|答え|正解|正答"
    r"|정답|(?<!\w)답"
    r"|\b(?:respuesta|réponse|antwort|risposta|resposta)(?:\s+\w+)?\s*:)",
    re.IGNORECASE,
)
_NEGATED = re.compile(r"[不没別别勿未][能可应應该該要会會得以]{0,3}\Z")
_GAP = (
    r"[\s:=>\-–—]{0,4}"
    r"(?:(?:is|be|应该是|應該是|是|为|為|は|が|은|는|이|가)[\s:]{0,3})?"
    r"(?:(?:option|choice|letter|选项|選項)[\s:]{1,3})?"
    rf"(?:{_OPEN}|\s){{0,4}}"
)
_AFTER_CUE = re.compile(rf"(?P<gap>{_GAP})(?P<letter>[A-Za-z]){_NOT_IN_WORD}", re.IGNORECASE)
_LOWER_END = re.compile(rf"(?:{_CLOSE}|\s)*(?:$|\n)|[.,;:!?)\]}}]")
_BARE = re.compile(rf"{_OPEN}?\s*([A-Za-z])\s*{_CLOSE}?\s*[.,:;!?。]?\s*{_CLOSE}?")
_LEADING = re.compile(r"([A-Z])(?:[.:)\]}])|[(\[{]\s*([A-Z])\s*[)\]}][.:]?")

_JOINER = (
    r"(?:\s*(?:,|/|&|、|和|或者|或|还是|與|与|及)\s*(?:(?:or|and)\s+)?|\s+(?:or|and)\s+)"
    r"(?:(?:maybe|perhaps|possibly|even|also|可能是?|也许是?)\s*)?"
)
_JOINED = re.compile(rf"{_CLOSE}?{_JOINER}(?:(?:option|choice)\s+)?{_OPEN}?([A-Za-z]){_NOT_IN_WORD}", re.IGNORECASE)
_WORD_I = re.compile(r"\s+[a-z]")
_FINAL_PUNCTUATION = " \t\n.。,;:!?！？\"'”’"


# --- Rules -------------------------------------------------------------------------------------------------------


def bare(text: str, question: Question) -> Named | None:
    """The whole reply is one letter; a list of letters names its first and is found to be one later."""
    match = _BARE.fullmatch(text)
    if match is None:
        match = re.match(rf"{_OPEN}?([A-Za-z])(?={_CLOSE}?{_JOINER})", text)
        if match is None or not _is_list(text[match.end() :]):
            return None
    return _valid(match[1].upper(), text[match.end() :], question)


def marked(text: str, question: Question) -> Named | None:
    """A letter right after the last cue such as `the answer is`."""
    cues = [cue for cue in _CUE.finditer(text) if not _NEGATED.search(text, max(0, cue.start() - 4), cue.start())]
    if not cues:
        return None
    cue = cues[-1]
    match = _AFTER_CUE.match(text, cue.end())
    if match is None:
        return None
    letter, after = match["letter"], text[match.end() :]
    has_colon = ":" in cue[0] or ":" in match["gap"]
    if letter.islower() and not (has_colon and _LOWER_END.match(after)):
        return None
    if _is_word(letter, after) or _states_choice(letter + after, question):
        return None
    return _valid(letter.upper(), after, question)


def leading(text: str, question: Question) -> Named | None:
    """The reply starts with a letter and a full stop, colon or closing bracket, as in `C. Berries`."""
    match = _LEADING.match(text)
    if match is None:
        return None
    letter, after = match[1] or match[2], text[match.end() :]
    if letter == "I" and not _starts_with_choice(after, letter, question):
        return None
    if (other := bare(after.strip(), question)) is not None and other.letter != letter:  # `A: C` names two
        return None
    return _valid(letter, after, question)


def lastline(text: str, question: Question) -> Named | None:
    """The last line is one letter."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return bare(lines[-1], question) if lines else None


def optiontext(text: str, question: Question) -> Named | None:
    """The reply is the text of exactly one choice."""
    found = [letter for letter, choice in _lettered(question) if _plain(choice) == _plain(text)]
    return Named(found[0]) if len(found) == 1 else None


RULES: dict[str, Rule] = {
    "bare": bare,
    "marked": marked,
    "leading": leading,
    "lastline": lastline,
    "optiontext": optiontext,
}


# --- Scoring -----------------------------------------------------------------------------------------------------


def score_choice(item: Item, reply: Reply, answer_map: Mapping[str, str] | None = None) -> Score:
    """Right when the letter that the reply names is the item's."""
    text = prepare(reply.text)
    question = Question(ascii_uppercase[: len(item.choices)], item.choices)
    if text is not None:
        text = _in_latin_letters(text, answer_map or {})
        for rule, find in RULES.items():
            named = find(text, question)
            if named is not None and names_another(named, question):
                return unparsed(Reason.AMBIGUOUS)
            if named is not None:
                return judged(question.letters.index(named.letter) == item.answer, rule, named.letter)
    return unparsed(reason_of(text, reply))


def names_another(named: Named, question: Question) -> bool:
    """True when a joiner and a different valid letter follow the letter: `A or C`."""
    match = _JOINED.match(named.after)
    while match is not None:
        letter, after = match[1], named.after[match.end() :]
        is_letter = letter.isupper() or _LOWER_END.match(after) is not None
        if is_letter and letter.upper() in question.letters and not _is_word(letter, after):
            if letter.upper() != named.letter:
                return True
            match = _JOINED.match(named.after, match.end())
        else:
            return False
    return False


def _valid(letter: str, after: str, question: Question) -> Named | None:
    return Named(letter, after) if letter in question.letters else None


def _is_list(rest: str) -> bool:
    """True when `rest` is nothing but joiners and letters."""
    return re.fullmatch(rf"(?:{_CLOSE}?{_JOINER}{_OPEN}?[A-Za-z])+{_CLOSE}?[.。!]?", rest) is not None


def _is_word(letter: str, after: str) -> bool:
    """True for the pronoun I."""
    return letter.upper() == "I" and _WORD_I.match(after) is not None


def _states_choice(rest: str, question: Question) -> bool:
    """True when the line from the letter on is the text of a choice: the A of `A man` is an article."""
    line = _plain(rest.split("\n", 1)[0])
    return len(line) > 1 and any(_plain(choice) == line for choice in question.choices)


def _starts_with_choice(text: str, letter: str, question: Question) -> bool:
    index = question.letters.find(letter)
    return index >= 0 and _plain(text).startswith(_plain(question.choices[index]))


def _lettered(question: Question) -> list[tuple[str, str]]:
    return list(zip(question.letters, question.choices, strict=True))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(_FINAL_PUNCTUATION)


def _in_latin_letters(text: str, answer_map: Mapping[str, str]) -> str:
    for sign, letter in answer_map.items():
        text = re.sub(rf"(?<!\w){re.escape(sign)}(?!\w)", letter, text)
    return text
