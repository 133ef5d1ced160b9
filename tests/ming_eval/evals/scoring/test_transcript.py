from __future__ import annotations

import random
import re

import pytest

from ming_eval.evals.item import Item, Outcome, Reason, Reply
from ming_eval.evals.scoring.edits import edit_distance
from ming_eval.evals.scoring.english_numbers import figures
from ming_eval.evals.scoring.english_spelling import american
from ming_eval.evals.scoring.normalise_chinese import chinese_tokens
from ming_eval.evals.scoring.normalise_english import english_tokens
from ming_eval.evals.scoring.normalise_mixed import mixed_tokens, plain_tokens
from ming_eval.evals.scoring.traditional import _TO_SIMPLIFIED, simplified
from ming_eval.evals.scoring.transcript import ERRORS, HIGH, num_errors, score_transcript


def item(text: str) -> Item:
    return Item("u", "", text)


# --- normalisers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Mr. Smith won't pay, he's ill!", "mister smith will not pay he is ill"),
        ("I'd gone before they'd been told", "i had gone before they had been told"),
        ("Um, well, uh: hmm", "well"),
        ("He said (quietly) yes [applause]", "he said yes"),
        ("the colour of the theatre", "the color of the theater"),
        ("She organised 1,200 travellers", "she organized 1200 travelers"),
        ("It’s a cliché", "it is a cliche"),
        ("You can't, I cannot", "you can not i can not"),
        ("Twenty-one guns", "21 guns"),
        ("10.5% of $20", "10.5% of $20"),
        ("The end.", "the end"),
        ("well-known re-use", "well known re use"),
        ("...", ""),
        ("The 1st, the first", "the 1st the 1st"),
        ("10km in 1990-1995", "10 km in 1990 1995"),
        ("rock 'n' roll in the '70s", "rock n roll in the 70s"),
        ("It cost $3.5 million", "it cost $3500000"),
        ("Five dollars and ten cents", "$5.10"),
        ("unrecognised dishonour", "unrecognized dishonor"),
    ],
)
def test_english(text: str, words: str) -> None:
    assert english_tokens(text) == words.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("one", "1"),
        ("twenty one", "21"),
        ("one hundred and five", "105"),
        ("two thousand and twelve", "2012"),
        ("three million two hundred thousand", "3200000"),
        ("nineteen ninety five", "1995"),
        ("twenty twenty", "2020"),
        ("one two three", "123"),
        ("three point one four", "3.14"),
        ("twenty first", "21st"),
        ("third", "3rd"),
        ("eleventh", "11th"),
        ("one hundred and fifth", "105th"),
        ("five dollars", "$5"),
        ("fifty percent", "50%"),
        ("fifty per cent", "50%"),
        ("twenty cents", "¢20"),
        ("20 thousand", "20000"),
        ("a second helping", "a 2nd helping"),
        ("two thirds", "2 thirds"),
        ("9" * 5000 + " thousand", "9" * 5000 + " 1000"),
        ("zero thousand", "01000"),  # no number, but not nothing
        ("nineteen oh one", "1901"),
        ("double oh seven", "007"),
        ("oh my word", "oh my word"),
        ("minus five degrees", "-5 degrees"),
        ("the nineteen sixties", "the 1960s"),
        ("cats and dogs", "cats and dogs"),
        ("two and a half", "2.5"),
        ("what is the point of it", "what is the point of it"),
    ],
)
def test_number_words(words: str, expected: str) -> None:
    assert " ".join(figures(words.split())) == expected


@pytest.mark.parametrize(
    ("british", "us"),
    [
        ("honours", "honors"),
        ("realise", "realize"),
        ("analysed", "analyzed"),
        ("metres", "meters"),
        ("grey", "gray"),
        ("centred", "centered"),
        ("catalogued", "cataloged"),
        ("practising", "practicing"),
    ],
)
def test_british_spelling(british: str, us: str) -> None:
    assert american(british) == us
    assert american(us) == us


READ_ALIKE = """\
Mr. Smith's dog isn't here, it's gone; she'd been told and he's got a TV.
Dr. Who lives on St. James St. near Prof. Jones, Gov. Hill and Ald. Ray.
I'ma go, I can't, won't, shan't, y'all, gonna, woulda, ma'am, let's, ain't.
hello [noise] world (laughs) <unk> uh um hmm mhm
a well-known, state-of-the-art mother-in-law's café in Łódź, Ærø and Gießen
He paid $5.50 for two hundred and five apples, fifty cents for 3,000,000 and £10 and €20 for 12,345.
It's 10:30 a.m. on the 5th of May, the twenty-first of the twenty second, the 60s and 1960s and '70s.
twenty twenty-one, nineteen ninety nine, eighteen sixty, two thousand and twenty, seven thirty, twenty ten
nineteen oh five, double oh seven, triple nine, nine one one, zero zero seven, six oh five
three point one four, two and a half men, five percent of 3.5 million, $3 million, minus five degrees
five dollars and ten cents, 90 per cent, 100%, one hundred and first, a hundred and twenty third, ten thousandth
two thirds, the sixties, hundreds of thousands, second to none, seconds later, first and third
two million five hundred thousand and six, twenty-three hundred, eleven hundred, two hundred thousand and five
4x4 and R2D2 at 10km or 5kg, B-52 and F-16, 20-year-old, covid-19, 1990-1995, 50/50, +5, #5"""


@pytest.mark.slow
def test_whispers_own_normaliser_reads_alike() -> None:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    theirs = EnglishTextNormalizer({})  # without its table of British spellings
    found = {each: (english_tokens(each), theirs(each).split()) for each in re.split(r",\s|\n", READ_ALIKE)}
    assert {each: pair for each, pair in found.items() if pair[0] != pair[1]} == {}


def test_chinese_is_compared_by_character() -> None:
    assert chinese_tokens("今天，天氣很好！") == list("今天天气很好")
    assert chinese_tokens("ＡＢＣ １２３") == list("abc123")


def test_traditional_characters_become_simplified_and_others_stay() -> None:
    assert simplified("電腦與軟體") == "电脑与软体"
    assert simplified("隨身掛著粵語的褲子，睜眼餵貓") == "随身挂著粤语的裤子，睁眼喂猫"
    assert simplified("简体字 abc") == "简体字 abc"
    table = "".join(map(chr, _TO_SIMPLIFIED))
    assert simplified(simplified(table)) == simplified(table)


def test_mixed_text_has_characters_and_words() -> None:
    assert mixed_tokens("我喜歡 Machine Learning，真的") == ["我", "喜", "欢", "machine", "learning", "真", "的"]


def test_plain_words_keep_apostrophes() -> None:
    assert plain_tokens("L’été, c'est beau!") == ["l'été", "c'est", "beau"]


# --- scoring -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heard", "errors"),
    [
        ("the cat sat on the mat", 0),
        ("The cat sat on the mat.", 0),
        ("the cat sat on mat", 1),  # deletion
        ("the big cat sat on the mat", 1),  # insertion
        ("the cat sat on the rug", 1),  # substitution
        ("a dog", 6),
    ],
)
def test_errors_over_reference_words(heard: str, errors: int) -> None:
    score = score_transcript(item("the cat sat on the mat"), Reply(heard), "english")
    assert score.tallies[ERRORS] == (errors, 6)
    assert score.value == pytest.approx(errors / 6)
    assert score.outcome is (Outcome.CORRECT if errors == 0 else Outcome.WRONG)
    assert score.tallies[HIGH] == (float(errors > 3), 1.0)


@pytest.mark.parametrize("text", ["", "   ", "...", "<think>hm"])
def test_a_missing_transcript_is_all_deletions(text: str) -> None:
    score = score_transcript(item("two words"), Reply(text), "plain")
    assert (score.outcome, score.tallies[ERRORS], score.value) == (Outcome.UNPARSED, (2.0, 2.0), 1.0)


def test_an_empty_transcript_has_its_reason() -> None:
    assert score_transcript(item("two words"), Reply(""), "plain").reason == Reason.EMPTY
    assert score_transcript(item("two words"), Reply("", "length"), "plain").reason == Reason.TRUNCATED


@pytest.mark.parametrize(
    ("text", "rule", "errors"),
    [
        ("Here is the transcription: hello there", "announced", 0),
        ("The audio says: hello there", "announced", 0),
        ("音频内容如下：hello there", "announced", 0),
        ("Here is the transcription hello there", "whole", 4),
        ("He said: hello there", "whole", 2),
        ("hello there", "whole", 0),
    ],
)
def test_only_an_announcement_with_a_colon_is_stripped(text: str, rule: str, errors: int) -> None:
    score = score_transcript(item("hello there"), Reply(text), "plain")
    assert (score.rule, score.tallies[ERRORS][0]) == (rule, errors)


def test_error_counts_agree_with_plain_edit_distance() -> None:
    rng = random.Random(7)
    for _ in range(200):
        reference = rng.choices("abcd", k=rng.randint(1, 9))
        heard = rng.choices("abcd", k=rng.randint(1, 9))
        assert num_errors(reference, heard) == edit_distance(reference, heard)
