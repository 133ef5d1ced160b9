"""English transcripts as words, by the rules of the normaliser that came with Whisper (Radford et al., 2022, app. C).

Bracketed remarks and hesitations go, contractions and titles are written out, numbers become figures, British spelling
becomes American, punctuation goes. The tables are this project's own: counts can differ from the original's in rare
words, so metrics are named after this normaliser.
"""

from __future__ import annotations

import re
import unicodedata

from ming_eval.evals.scoring.english_numbers import figures
from ming_eval.evals.scoring.english_spelling import american

_REMARK = re.compile(r"[<\[][^>\]]*[>\]]|\([^)]*\)")
_HESITATION = re.compile(r"\b(?:hmm|mm|mhm|mmm|uh|um)\b")
_APOSTROPHE = re.compile(r"\s+'|[‘’´`]")
_DIGIT_COMMA = re.compile(r"(?<=\d),(?=\d)")
_FULL_STOP = re.compile(r"\.(?!\d)")
_LONE_SIGN = re.compile(r"[$€£¢](?!\d)|(?<!\d)[%]|(?<![\d$€£])\.")
_KEPT_SIGNS = ".%$€£¢"
_LETTER_DIGIT = re.compile(r"(?<=[a-z])(?=\d)|(?<=\d)(?=[a-z])")
_ENDING_OF_FIGURE = re.compile(r"(?<=\d) (?=(?:st|nd|rd|th|s)\b)")
_CENTS = re.compile(r"([$€£]\d+) (?:and )?¢(\d{1,2})\b")
_WITHOUT_MARK = str.maketrans({"œ": "oe", "ø": "o", "æ": "ae", "đ": "d", "ð": "d", "þ": "th", "ł": "l"})

_WHOLE = {
    "won't": "will not",
    "can't": "can not",
    "cannot": "can not",
    "let's": "let us",
    "ain't": "aint",
    "y'all": "you all",
    "ma'am": "madam",
    "wanna": "want to",
    "gonna": "going to",
    "gotta": "got to",
    "imma": "i am going to",
    "i'ma": "i am going to",
    "woulda": "would have",
    "coulda": "could have",
    "shoulda": "should have",
    "mr": "mister",
    "mrs": "missus",
    "dr": "doctor",
    "st": "saint",
    "prof": "professor",
    "capt": "captain",
    "gov": "governor",
    "ald": "alderman",
    "gen": "general",
    "sen": "senator",
    "rep": "representative",
    "pres": "president",
    "rev": "reverend",
    "hon": "honorable",
    "asst": "assistant",
    "assoc": "associate",
    "lt": "lieutenant",
    "col": "colonel",
    "sgt": "sergeant",
    "jr": "junior",
    "sr": "senior",
    "esq": "esquire",
}
_PERFECT = re.compile(r"'(?P<verb>[ds]) (?P<participle>been|gone|done|got)\b")
_ENDINGS = (
    ("n't", " not"),
    ("'re", " are"),
    ("'s", " is"),
    ("'d", " would"),
    ("'ll", " will"),
    ("'ve", " have"),
    ("'m", " am"),
    ("'t", " not"),
)
_ENDING = re.compile("|".join(rf"(?<=[a-z]){ending}\b" for ending, _ in _ENDINGS))
_WRITTEN_OUT = dict(_ENDINGS)
_WORD = re.compile(r"(?<![\w'])[a-z']+")


def english_tokens(text: str) -> list[str]:
    """The words of an English transcript that are compared."""
    text = _APOSTROPHE.sub("'", unicodedata.normalize("NFKC", text).casefold())
    text = _HESITATION.sub(" ", _REMARK.sub(" ", text))
    text = _WORD.sub(lambda match: _WHOLE.get(match[0], match[0]), text)
    text = _PERFECT.sub(lambda match: f" {'had' if match['verb'] == 'd' else 'has'} {match['participle']}", text)
    text = _ENDING.sub(lambda match: _WRITTEN_OUT[match[0]], text)
    text = _FULL_STOP.sub(" ", _DIGIT_COMMA.sub("", text))
    text = _ENDING_OF_FIGURE.sub("", _LETTER_DIGIT.sub(" ", _without_signs(text)))
    spoken = " ".join(american(word) for word in figures(text.split()))
    return _LONE_SIGN.sub(" ", _CENTS.sub(_amount, spoken)).split()


def _amount(match: re.Match[str]) -> str:
    return f"{match[1]}.{int(match[2]):02d}"


def _without_signs(text: str) -> str:
    """Letters without their accents, figures, and the signs that can belong to a figure."""
    kept = []
    for char in unicodedata.normalize("NFKD", text.translate(_WITHOUT_MARK)):
        category = unicodedata.category(char)
        if char in _KEPT_SIGNS or category[0] in "LN":
            kept.append(char)
        elif category != "Mn":
            kept.append(" ")
    return "".join(kept)
