"""Which language a text is in, by its script and by its most common words; deterministic, for paragraphs."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

_BY_SCRIPT = {
    "BENGALI": "bn",
    "GUJARATI": "gu",
    "GURMUKHI": "pa",
    "HANGUL": "ko",
    "HEBREW": "he",
    "KANNADA": "kn",
    "MALAYALAM": "ml",
    "TAMIL": "ta",
    "TELUGU": "te",
    "THAI": "th",
    "GREEK": "el",
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "CJK": "zh",
}

# Letters that one language of a shared script has and the others have not, or hardly.
_BY_LETTER = {
    "CYRILLIC": {"uk": "іїєґ", "ru": "ыэё", "bg": "ъ"},
    "ARABIC": {"ur": "ٹڈڑںےہ", "fa": "پچژگ"},
}
_OTHERWISE = {"CYRILLIC": "ru", "ARABIC": "ar"}

_COMMON_WORDS = {
    "LATIN": {
        "en": "the and of to in is that it for was with as are on this be have not you but from they we",
        "es": "el la de que y en los se las un una por con para es del como más pero su no al",
        "pt": "o a de que e do da em um uma para com não os as no na por mais dos se é ao",
        "fr": "le la de et les des en un une est que pour dans qui sur pas au par il avec ce sont du",
        "de": "der die und das ist in zu den nicht mit von ein eine sich auf für dem des im es auch wie",
        "it": "il la di che e un una per non sono in con del della le si da gli è al più come",
        "nl": "de het een en van in is dat op te zijn met voor niet die aan er ook als",
        "pl": "i w nie na się to z jest że do jak a ale po o co dla przez są",
        "vi": "và của là có trong cho một các những không được với người này khi đã",
        "sw": "na ya wa kwa ni katika za la kuwa hii cha yake watu kama kwamba hiyo",
        "fi": "ja on ei se että oli hän mutta kun niin ovat myös joka tai voi",
        "tr": "ve bir bu için ile çok da de olarak daha gibi olan ne var",
        "id": "dan yang di untuk dengan dari ini itu adalah pada tidak ke dalam akan",
    },
    "DEVANAGARI": {
        "hi": "है और के की में से का को हैं पर यह ने एक भी नहीं तो कि",
        "mr": "आहे आणि च्या मध्ये आहेत ते ही हा व एक या होते नाही करण्यासाठी",
        "ne": "छ र को मा हो पनि छन् लागि यो गर्न भएको थियो एक गरेको",
    },
}
_WORDS = {
    script: {language: frozenset(words.split()) for language, words in languages.items()}
    for script, languages in _COMMON_WORDS.items()
}


def language_of(text: str) -> str | None:
    """The ISO 639-1 code of the language, None when there is no sign of one that is known here."""
    scripts = Counter(_script(char) for char in text if char.isalpha())
    if not scripts:
        return None
    if scripts["HIRAGANA"] + scripts["KATAKANA"] > 0.1 * scripts["CJK"] and scripts["CJK"] + scripts["HIRAGANA"]:
        return "ja" if scripts["LATIN"] < scripts.total() / 2 else "en"
    script = scripts.most_common(1)[0][0]
    if script in _BY_SCRIPT:
        return _BY_SCRIPT[script]
    if script in _BY_LETTER:
        return _by_letter(text.casefold(), script)
    return _by_words(text.casefold(), script) if script in _WORDS else None


def _script(char: str) -> str:
    return unicodedata.name(char, "").partition(" ")[0]


def _by_letter(text: str, script: str) -> str:
    counts = {language: sum(text.count(each) for each in letters) for language, letters in _BY_LETTER[script].items()}
    language = max(counts, key=lambda name: counts[name])
    return language if counts[language] else _OTHERWISE[script]


def _by_words(text: str, script: str) -> str | None:
    words = Counter(re.split(r"[^\w\u0900-\u097f]+", text))
    counts = {language: sum(words[each] for each in common) for language, common in _WORDS[script].items()}
    language = max(counts, key=lambda name: counts[name])
    return language if counts[language] else None
