"""One choice: engine outputs to deltas, whatever portions the outputs come in."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.core.request import FinishReason, Output, SamplingParams, TokenLogprob
from engine.server.choice import Choice, Delta
from engine.server.plan import Plan, PromptInput
from engine.server.text import StopRule
from tests.engine.server.fake_engine import EOS, TOKENIZER, scored

NO_STOP = StopRule()


def plan_of(rule: StopRule = NO_STOP, prompt: bytes = b"Say: ", *, echo: bool = False, **sampling: Any) -> Plan:
    return Plan(
        model="ming",
        prompts=(PromptInput(tuple(prompt)),),
        sampling=SamplingParams(**({"max_tokens": 100} | sampling)),
        num_samples=1,
        stop=rule,
        stream=False,
        include_usage=False,
        continuous_usage=False,
        echo=echo,
    )


def output(tokens: bytes | tuple[int, ...], finish: FinishReason | None = None, **fields: Any) -> Output:
    return Output(7, tuple(tokens), tuple(scored(token, 2) for token in tokens), finish=finish, **fields)


def feed(plan: Plan, outputs: list[Output]) -> tuple[list[Delta], Choice]:
    """All deltas until the choice has ended."""
    choice = Choice(0, plan, TOKENIZER)
    deltas = []
    for each in outputs:
        delta = choice.feed(each)
        if delta is not None:
            deltas.append(delta)
        if choice.finish is not None:
            break
    return deltas, choice


def text_of(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def raw_of(deltas: list[Delta]) -> bytes:
    return b"".join(entry.raw for delta in deltas for entry in delta.entries)


def test_end_token_counts_and_does_not_show() -> None:
    deltas, choice = feed(plan_of(), [output(b"H"), output(b"i"), output((EOS,), FinishReason.STOP)])
    assert (text_of(deltas), choice.num_tokens) == ("Hi", 3)
    assert (deltas[-1].finish, deltas[-1].stop_reason) == ("stop", None)


@pytest.mark.parametrize(("include", "text"), [(False, "H"), (True, "Hi")])
def test_stop_id_shows_only_when_asked_for(include: bool, text: str) -> None:
    last = output(b"i", FinishReason.STOP, stop_token_id=ord("i"))
    deltas, _ = feed(plan_of(StopRule((), include)), [output(b"H"), last])
    assert text_of(deltas) == text
    assert (deltas[-1].finish, deltas[-1].stop_reason) == ("stop", ord("i"))


def test_stop_string_wins_over_length() -> None:
    deltas, choice = feed(plan_of(StopRule(("lo",))), [output(b"Hel"), output(b"o", FinishReason.LENGTH)])
    assert (text_of(deltas), deltas[-1].finish, deltas[-1].stop_reason) == ("Hel"[:-1], "stop", "lo")
    assert choice.num_tokens == 4  # tokens of the removed stop string count


def test_control_tokens_in_the_middle_do_not_show() -> None:
    role = TOKENIZER.token_id("<role>")
    deltas, _ = feed(plan_of(logprobs=0), [output((ord("a"), role, ord("b")), FinishReason.LENGTH)])
    assert text_of(deltas) == "ab"
    assert [(entry.text, entry.raw) for entry in deltas[0].entries] == [("a", b"a"), ("<role>", b""), ("b", b"b")]


def test_score_of_a_token_that_does_not_show_waits_for_the_next_chunk() -> None:
    """A delta without text makes no chunk of a stream: what it held would be lost."""
    role = TOKENIZER.token_id("<role>")
    outputs = [output(b"a"), output((role,)), output(b"b"), output((role,), FinishReason.LENGTH)]
    deltas, _ = feed(plan_of(logprobs=0), outputs)
    assert [(delta.text, [entry.text for entry in delta.entries]) for delta in deltas] == [
        ("a", ["a"]),
        ("", []),
        ("b", ["<role>", "b"]),
        ("", ["<role>"]),
    ]


def test_output_before_the_first_token_says_nothing() -> None:
    choice = Choice(0, plan_of(echo=True, prompt_logprobs=0, logprobs=0), TOKENIZER)
    assert choice.feed(Output(7, prompt_logprobs=tuple(scored(token, 0) for token in b"ay: "), cached_tokens=2)) is None
    assert choice.cached_tokens == 2
    delta = choice.feed(output(b"x", FinishReason.LENGTH))
    assert delta is not None
    assert delta.text == "Say: x"
    assert [entry.logprob for entry in delta.entries] == [None, -1.0, -1.0, -1.0, -1.0, -1.0]
    assert [entry.offset for entry in delta.entries] == [0, 1, 2, 3, 4, 5]


def test_scores_come_with_their_text_and_end_where_it_ends() -> None:
    """Tokens of a held-back tail are scored when it shows; tokens of a removed stop string have no bytes."""
    rule = StopRule(("XYZ",))
    deltas, _ = feed(plan_of(rule, logprobs=1), [output(bytes([byte])) for byte in b"aXYbXYZ"])
    shown = [(delta.text, [(entry.text, entry.raw) for entry in delta.entries]) for delta in deltas]
    assert shown == [
        ("a", [("a", b"a")]),
        ("", []),
        ("", []),
        ("XYb", [("X", b"X"), ("Y", b"Y"), ("b", b"b")]),
        ("", []),
        ("", []),
        ("", [("X", b""), ("Y", b""), ("Z", b"")]),
    ]


def test_impossible_tokens_have_a_finite_score() -> None:
    """JSON has no infinity; the token and its entry among the alternatives still agree."""
    never = TokenLogprob(65, -math.inf, ((66, 0.0), (65, -math.inf)))
    choice = Choice(0, plan_of(logprobs=2), TOKENIZER)
    delta = choice.feed(Output(7, (65,), (never,)))
    assert delta is not None
    (entry,) = delta.entries
    assert [scored.logprob for scored in entry.top] == [0.0, -9999.0]
    assert entry.logprob == -9999.0


def test_part_of_a_token_before_a_stop_string_is_kept() -> None:
    """One token may hold both the end of the text and the stop string."""
    merged = Choice(0, plan_of(StopRule((" stop",)), logprobs=0), TOKENIZER)
    delta = merged.feed(output(b"ok stop"))
    assert delta is not None
    assert (delta.text, raw_of([delta])) == ("ok", b"ok")


TEXTS = st.text(alphabet="aé😀\n", max_size=10)


@given(
    text=TEXTS,
    stops=st.lists(st.text("aé😀\n", min_size=1, max_size=3), max_size=2),
    sizes=st.lists(st.integers(1, 5), max_size=12),
    ending=st.sampled_from([FinishReason.STOP, FinishReason.LENGTH]),
)
def test_portions_of_outputs_do_not_matter(text: str, stops: list[str], sizes: list[int], ending: FinishReason) -> None:
    """Any grouping of the same tokens gives the same text, reason and scores, and the scores spell the text."""
    tokens = [*text.encode(), *((EOS,) if ending is FinishReason.STOP else (ord("a"),))]
    plan = plan_of(StopRule(tuple(stops)), logprobs=2)
    whole, _ = feed(plan, [output(tuple(tokens), ending)])
    parts, rest = [], tokens
    for size in sizes:
        head, rest = rest[:size], rest[size:]
        if head and rest:
            parts.append(output(tuple(head)))
        elif head:
            rest = head
            break
    pieces, _ = feed(plan, [*parts, output(tuple(rest), ending)])
    assert text_of(pieces) == text_of(whole)
    assert (pieces[-1].finish, pieces[-1].stop_reason) == (whole[-1].finish, whole[-1].stop_reason)
    assert raw_of(pieces) == raw_of(whole) == text_of(whole).encode()
