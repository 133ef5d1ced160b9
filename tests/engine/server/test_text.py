"""Stop strings: what is cut, what is held back, and that neither depends on how text arrives."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.inputs.detokenizer import Detokenizer
from engine.server.text import StopMatcher, StopRule, TextStream
from tests.engine.server.fake_engine import TOKENIZER


def first_stop(text: str, rule: StopRule) -> tuple[str, str | None]:
    """The definition, read off the whole text: the shortest beginning that ends in a stop string is where it stops."""
    for end in range(1, len(text) + 1):
        found = [stop for stop in rule.strings if text[:end].endswith(stop)]
        if found:
            stop = max(found, key=len)
            return text[: end if rule.include else end - len(stop)], stop
    return text, None


def run_matcher(pieces: list[str], rule: StopRule) -> tuple[str, str | None]:
    matcher = StopMatcher(rule)
    shown = ""
    for piece in pieces:
        shown += matcher.feed(piece)
        if matcher.matched is not None:
            return shown, matcher.matched
    return shown + matcher.flush(), None


@pytest.mark.parametrize(
    ("pieces", "stops", "shown", "matched"),
    [
        (["Hel", "lo"], ["l"], "He", "l"),
        (["one ST", "OP two"], ["STOP"], "one ", "STOP"),
        (["a", "b", "c", "d"], ["bcd"], "a", "bcd"),
        (["abc"], ["x", "c", "b"], "a", "b"),  # the earliest in the text, not the first in the list
        (["abcd"], ["bcd", "cd"], "a", "bcd"),  # complete at the same character: the longer one
        (["abcd"], ["bcd", "c"], "ab", "c"),  # "c" is complete before "bcd" is
        (["aab"], ["ab"], "a", "ab"),  # the first "a" turns out not to begin it
        (["ends with ST"], ["STOP"], "ends with ST", None),  # the tail is given back
    ],
)
def test_stop_strings_by_hand(pieces: list[str], stops: list[str], shown: str, matched: str | None) -> None:
    assert run_matcher(pieces, StopRule(tuple(stops))) == (shown, matched)


def test_tail_that_could_begin_a_stop_string_is_held_back() -> None:
    matcher = StopMatcher(StopRule(("\n\nUser:",)))
    assert [matcher.feed(piece) for piece in ("Yes.", "\n", "\n", "Us", "ing")] == ["Yes.", "", "", "", "\n\nUsing"]


def test_match_is_kept_when_asked_for() -> None:
    assert run_matcher(["one ST", "OP two"], StopRule(("STOP",), include=True)) == ("one STOP", "STOP")


SMALL = st.text(alphabet="ab\n", max_size=24)
STOPS = st.lists(st.text(alphabet="ab\n", min_size=1, max_size=4), min_size=1, max_size=4)


@given(text=SMALL, stops=STOPS, cuts=st.sets(st.integers(0, 24)), include=st.booleans())
@example(text="aab", stops=["ab", "aa"], cuts={1}, include=False)
def test_pieces_do_not_matter(text: str, stops: list[str], cuts: set[int], include: bool) -> None:
    rule = StopRule(tuple(stops), include)
    borders = sorted({0, len(text), *(cut for cut in cuts if cut < len(text))})
    pieces = [text[start:end] for start, end in pairwise(borders)]
    assert run_matcher(pieces, rule) == first_stop(text, rule)


@given(text=SMALL, stops=STOPS, cut=st.integers(0, 24))
def test_no_more_is_held_back_than_needed(text: str, stops: list[str], cut: int) -> None:
    """What is not shown is the beginning of a stop string, and nothing that is shown can belong to one."""
    rule = StopRule(tuple(stops))
    matcher = StopMatcher(rule)
    seen = text[:cut]
    shown = matcher.feed(seen)
    if matcher.matched is not None:
        return
    held = seen.removeprefix(shown)
    assert not held or any(stop.startswith(held) for stop in stops)
    longer = [seen[start:] for start in range(len(shown))]
    assert not any(stop.startswith(tail) for stop in stops for tail in longer)


@given(
    text=st.text(alphabet="aé😀\n", max_size=12), stops=st.lists(st.text("aé😀\n", min_size=1, max_size=3), max_size=3)
)
def test_stream_of_bytes_is_the_text_up_to_the_stop(text: str, stops: list[str]) -> None:
    """Tokens of one byte each, so that both characters and stop strings span several of them."""
    rule = StopRule(tuple(stops))
    stream = TextStream(Detokenizer(TOKENIZER), rule, min_tokens=0)
    shown = ""
    for byte in text.encode():
        shown += stream.push(byte)
        if stream.matched is not None:
            break
    else:
        shown += stream.finish()
    assert (shown, stream.matched) == first_stop(text, rule)


def test_stop_strings_are_not_looked_for_before_min_tokens() -> None:
    stream = TextStream(Detokenizer(TOKENIZER), StopRule(("ab",)), min_tokens=3)
    shown = "".join(stream.push(byte) for byte in b"ababab")
    assert (shown, stream.matched) == ("abab", "ab")
