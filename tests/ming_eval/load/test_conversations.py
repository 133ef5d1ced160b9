"""Conversations: which turn a request is, what stands before it, what is left of one that was cut short."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ming_eval.client.exchange import Exchange
from ming_eval.load.conversations import Conversations, Layout, lay_out, unbroken
from ming_eval.load.lengths import Lengths
from ming_eval.types import Event, EventKind, Failure, Message, Request, Text, Turn

LAYOUT = Layout((0, 2, 5), 6)  # of 2, 3 and 1 turns


def template(index: int) -> Request:
    return Request(f"c1-{index}", (Message("user", (Text(f"question {index}"),)),), turn=LAYOUT.turn(index))


def answered(request: Request, text: str, failure: Failure | None = None) -> Exchange:
    events = [Event(EventKind.REASONING, 0.0, "hm "), Event(EventKind.TEXT, 0.0, text)]
    return Exchange(request, "a", b"", None, 0.0, events=events, done_s=1.0, failure=failure)


def said(request: Request) -> list[tuple[str, str]]:
    return [
        (message.role, part.text) for message in request.messages for part in message.parts if isinstance(part, Text)
    ]


def test_turns_by_place() -> None:
    assert [LAYOUT.turn(index) for index in range(6)] == [
        Turn(0, 1, 2, 0),
        Turn(0, 2, 2, 1),
        Turn(1, 1, 3, 2),
        Turn(1, 2, 3, 3),
        Turn(1, 3, 3, 4),
        Turn(2, 1, 1, 5),
    ]


@given(st.integers(1, 5), st.integers(0, 4), st.integers(1, 60), st.integers(0, 9))
def test_every_request_is_one_turn_of_a_length_that_was_asked_for(low: int, more: int, count: int, seed: int) -> None:
    layout = lay_out(Lengths(low, low + more), count, seed, "c1")
    turns = [layout.turn(index) for index in range(count)]
    assert [turn.index for turn in turns] == list(range(count))
    assert all(turn.number == 1 for turn in turns if turn.index in layout.starts)
    assert all(low <= turn.of <= low + more for turn in turns[: layout.starts[-1]])  # the last one may be cut short
    assert lay_out(Lengths(low, low + more), count, seed, "c1") == layout


def test_the_next_turn_has_all_that_was_said_before_it_but_not_what_was_thought() -> None:
    conversations = Conversations(template)
    second = conversations.following(answered(template(2), "one"))
    assert second is not None
    third = conversations.following(answered(second, "two"))
    assert third is not None
    assert said(third) == [
        ("user", "question 2"),
        ("assistant", "one"),
        ("user", "question 3"),
        ("assistant", "two"),
        ("user", "question 4"),
    ]
    assert third.id == "c1-4"
    assert conversations.following(answered(third, "three")) is None


def test_a_script_says_the_same_whatever_the_server_said() -> None:
    conversations = Conversations(template, scripted=lambda index: f"answer {index}")
    found = [conversations.following(answered(template(2), text)) for text in ("one", "two")]
    assert found[0] == found[1]
    assert found[0] is not None
    assert said(found[0])[1] == ("assistant", "answer 2")


def test_a_failed_answer_ends_the_conversation_and_a_single_question_has_none() -> None:
    assert Conversations(template).following(answered(template(2), "on", Failure.RESET)) is None
    alone = Request("c1-0", (Message("user", (Text("x"),)),))
    assert Conversations(template).following(answered(alone, "one")) is None


def test_what_was_begun_is_not_begun_again() -> None:
    assert unbroken(LAYOUT, range(6)) == [0, 2, 5]
    assert unbroken(LAYOUT, [1, 2, 3, 4, 5]) == [2, 5]  # the first conversation lost its second turn
    assert unbroken(LAYOUT, [4]) == []
