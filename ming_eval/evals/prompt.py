"""A protocol and an item -> the turns that are sent. Templates have placeholders and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase

from ming_eval.evals.item import Item
from ming_eval.evals.suite import Protocol
from ming_eval.types import Media, Message, Part, Text


def letters_of(item: Item) -> str:
    """The valid letters of an item, `ABCD` for four choices."""
    return ascii_uppercase[: len(item.choices)]


def letters_phrase(letters: str) -> str:
    """`A, B, C, or D`; `A or B` for two."""
    if len(letters) <= 2:
        return " or ".join(letters)
    return f"{', '.join(letters[:-1])}, or {letters[-1]}"


def options_block(choices: Sequence[str]) -> str:
    """One choice a line, in front of each its letter."""
    return "\n".join(f"{letter}. {choice}" for letter, choice in zip(ascii_uppercase, choices, strict=False))


def render(protocol: Protocol, item: Item, *, examples: Sequence[Item] = (), subtitles: str | None = None) -> str:
    """The text of the user turn; `examples` stand where the template says `{examples}`.

    Where there are no subtitles, the paragraph that holds `{subtitles}` goes away up to there.
    """
    template = protocol.text if item.choices or protocol.open_text is None else protocol.open_text
    text = template if subtitles is not None else _without_subtitles(template)
    return text.format(
        question=item.question,
        options=options_block(item.choices),
        letters=letters_phrase(letters_of(item)),
        subtitles=subtitles or "",
        examples="\n\n".join(_solved(each) for each in examples),
    )


def turns(
    protocol: Protocol,
    item: Item,
    *,
    examples: Sequence[Item] = (),
    subtitles: str | None = None,
    media: Sequence[Media] = (),
) -> tuple[Message, ...]:
    """The whole conversation: the protocol's system turn, solved examples, then files and text of the item."""
    system = [Message("system", (Text(protocol.system),))] if protocol.system is not None else []
    is_inline = "{examples}" in protocol.text
    shown = () if is_inline else examples
    text = render(protocol, item, examples=examples if is_inline else (), subtitles=subtitles)
    parts: tuple[Part, ...] = (*media, Text(text))
    return (*system, *(turn for each in shown for turn in _solved_turns(protocol, each)), Message("user", parts))


def answer_text(item: Item) -> str:
    """The gold answer as a solved example shows it."""
    if item.choices and isinstance(item.answer, int):
        return ascii_uppercase[item.answer]
    return item.gold_texts[0]


def _solved_turns(protocol: Protocol, example: Item) -> tuple[Message, Message]:
    asked = Message("user", (Text(render(protocol, example)),))
    return asked, Message("assistant", (Text(answer_text(example)),))


def _solved(example: Item) -> str:
    lines = [example.question, options_block(example.choices)] if example.choices else [example.question]
    return "\n".join([*lines, f"Answer: {answer_text(example)}"])


def _without_subtitles(text: str) -> str:
    before, found, after = text.partition("{subtitles}")
    return before[: before.rfind("\n\n") + 2 if "\n\n" in before else 0] + after.lstrip("\n") if found else text
