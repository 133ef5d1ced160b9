"""Checks of instructions that can be verified without a model, by the ids of the IFEval set (Zhou et al., 2023).

Each check is true or false of a reply. Sentences are split at their final punctuation, and the language is told by its
script and common words, where the reference uses a tokeniser and a classifier.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from ming_eval.evals.scoring.language import language_of

Arguments = Mapping[str, Any]
Check = Callable[[str, Arguments], bool]

_SENTENCE_END = re.compile(r"(?<=[.!?。！？])[\"'”’)\]]*\s+(?=[\"'“‘(\[]?[A-Z0-9À-Þ\u0400-\u042f\u4e00-\u9fff])")
_ABBREVIATION = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|Prof|St|vs|etc|e\.g|i\.e|No|Inc|Ltd|Jr|Sr)\.\s$")
_CONSTRAINED = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


# --- Counts ------------------------------------------------------------------------------------------------------


def compare(count: int, relation: str, wanted: int) -> bool:
    """`less than` or `at least`.

    Raises:
        ValueError: another relation.
    """
    if relation == "less than":
        return count < wanted
    if relation == "at least":
        return count >= wanted
    raise ValueError(f"no relation {relation!r}: write 'less than' or 'at least'")


def sentences(text: str) -> list[str]:
    """The sentences of a text."""
    found: list[str] = []
    start = 0
    for match in _SENTENCE_END.finditer(text):
        if not _ABBREVIATION.search(text[start : match.start()] + " "):
            found.append(text[start : match.end()])
            start = match.end()
    return [each for each in (*found, text[start:]) if each.strip()]


def words(text: str) -> list[str]:
    """Runs of letters, digits and underscores."""
    return re.findall(r"\w+", text)


def _occurrences(word: str, text: str) -> int:
    return len(re.findall(re.escape(word), text, re.IGNORECASE))


# --- Keywords and case -------------------------------------------------------------------------------------------


def _keywords_exist(text: str, arguments: Arguments) -> bool:
    return all(_occurrences(word, text) > 0 for word in arguments["keywords"])


def _keyword_frequency(text: str, arguments: Arguments) -> bool:
    return compare(_occurrences(arguments["keyword"], text), arguments["relation"], arguments["frequency"])


def _no_forbidden_words(text: str, arguments: Arguments) -> bool:
    return not any(re.search(rf"\b{re.escape(word)}\b", text, re.IGNORECASE) for word in arguments["forbidden_words"])


def _letter_frequency(text: str, arguments: Arguments) -> bool:
    count = text.lower().count(arguments["letter"].lower())
    return compare(count, arguments["let_relation"], arguments["let_frequency"])


def _capital_words(text: str, arguments: Arguments) -> bool:
    count = sum(word.isupper() for word in re.findall(r"[^\W\d_][\w'’-]*", text))
    return compare(count, arguments["capital_relation"], arguments["capital_frequency"])


def _all_capitals(text: str, _: Arguments) -> bool:
    return text.isupper() and language_of(text.lower()) in ("en", None)


def _all_lower(text: str, _: Arguments) -> bool:
    return text.islower() and language_of(text) in ("en", None)


def _no_comma(text: str, _: Arguments) -> bool:
    return "," not in text


def _in_language(text: str, arguments: Arguments) -> bool:
    return language_of(text) == str(arguments["language"])


# --- Lengths -----------------------------------------------------------------------------------------------------


def _number_sentences(text: str, arguments: Arguments) -> bool:
    return compare(len(sentences(text)), arguments["relation"], arguments["num_sentences"])


def _number_words(text: str, arguments: Arguments) -> bool:
    return compare(len(words(text)), arguments["relation"], arguments["num_words"])


def _number_paragraphs(text: str, arguments: Arguments) -> bool:
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", text)]
    return all(parts[1:-1]) and sum(map(bool, parts)) == int(arguments["num_paragraphs"])


def _nth_paragraph_first_word(text: str, arguments: Arguments) -> bool:
    paragraphs = text.split("\n\n")
    count, nth = sum(1 for part in paragraphs if part.strip()), arguments["nth_paragraph"]
    if count != arguments["num_paragraphs"] or nth > count or not paragraphs[nth - 1].strip():
        return False
    first = paragraphs[nth - 1].split()[0].lstrip("\"'“‘")
    return re.split(r"[.,?!'\"’”]", first)[0].lower() == str(arguments["first_word"]).lower()


# --- Content and format ------------------------------------------------------------------------------------------


def _placeholders(text: str, arguments: Arguments) -> bool:
    return len(re.findall(r"\[.*?\]", text)) >= int(arguments["num_placeholders"])


def _postscript(text: str, arguments: Arguments) -> bool:
    marker = "".join(arguments["postscript_marker"].lower().split())
    pattern = r"\s?".join(re.escape(char) for char in marker)
    return re.search(rf"\s*{pattern}.*$", text.lower(), re.MULTILINE) is not None


def _bullets(text: str, arguments: Arguments) -> bool:
    stars = re.findall(r"^\s*\*[^*].*$", text, re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", text, re.MULTILINE)
    return len(stars) + len(dashes) == int(arguments["num_bullets"])


def _constrained(text: str, _: Arguments) -> bool:
    return any(option in text for option in _CONSTRAINED)


def _highlights(text: str, arguments: Arguments) -> bool:
    double = [each for each in re.findall(r"\*\*([^\n*]*)\*\*", text) if each.strip()]
    single = [each for each in re.findall(r"\*([^\n*]*)\*", text) if each.strip()]
    return len(single) + len(double) >= int(arguments["num_highlights"])


def _sections(text: str, arguments: Arguments) -> bool:
    splitter = re.escape(arguments["section_spliter"])  # the set's own spelling
    return len(re.findall(rf"\s?{splitter}\s?\d+\s?", text)) >= int(arguments["num_sections"])


def _json(text: str, _: Arguments) -> bool:
    body = re.sub(r"\A```(?:json)?|```\Z", "", text.strip(), flags=re.IGNORECASE)
    try:
        json.loads(body)
    except (ValueError, RecursionError):  # brackets without end
        return False
    return True


def _title(text: str, _: Arguments) -> bool:
    return any(each.lstrip("<").rstrip(">").strip() for each in re.findall(r"<<[^\n]+>>", text))


def _two_responses(text: str, _: Arguments) -> bool:
    parts = [part.strip() for part in text.split("******")]
    return all(parts[1:-1]) and len(found := [part for part in parts if part]) == 2 and found[0] != found[1]


def _repeats_prompt(text: str, arguments: Arguments) -> bool:
    return text.strip().lower().startswith(str(arguments["prompt_to_repeat"]).strip().lower())


def _ends_with(text: str, arguments: Arguments) -> bool:
    return text.strip().strip('"').lower().endswith(str(arguments["end_phrase"]).strip().lower())


def _quoted(text: str, _: Arguments) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == '"' and text[-1] == '"'


CHECKS: dict[str, Check] = {
    "keywords:existence": _keywords_exist,
    "keywords:frequency": _keyword_frequency,
    "keywords:forbidden_words": _no_forbidden_words,
    "keywords:letter_frequency": _letter_frequency,
    "language:response_language": _in_language,
    "length_constraints:number_sentences": _number_sentences,
    "length_constraints:number_paragraphs": _number_paragraphs,
    "length_constraints:number_words": _number_words,
    "length_constraints:nth_paragraph_first_word": _nth_paragraph_first_word,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": _constrained,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:json_format": _json,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": _repeats_prompt,
    "startend:end_checker": _ends_with,
    "startend:quotation": _quoted,
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": _all_capitals,
    "change_case:english_lowercase": _all_lower,
    "punctuation:no_comma": _no_comma,
}
