"""The normalised form of an item: one JSON object a line, the form of every bundled set and of `--data`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import isfinite
from pathlib import Path
from typing import Any, Literal

import msgspec

from ming_eval.errors import DataError
from ming_eval.evals.item import Gold, Instruction, Item, Kind, MediaRef


class _Media(msgspec.Struct, forbid_unknown_fields=True):
    type: Literal["image", "audio", "video"]
    path: str
    text: str | None = None


class _Instruction(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    arguments: dict[str, Any] = {}


class _Row(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    question: str
    answer: int | float | str | list[str | _Instruction]
    choices: tuple[str, ...] = ()
    media: tuple[_Media, ...] = ()
    group: dict[str, str] = {}
    cluster: str | None = None
    subtitles: str | None = None
    kind: Kind | None = None


_KEYS = frozenset(_Row.__struct_fields__)


def is_normalised(row: Mapping[str, Any]) -> bool:
    """True when a row has the keys of the normalised form and no others."""
    return {"id", "question", "answer"} <= row.keys() <= _KEYS


def shortfall(row: Mapping[str, Any]) -> str | None:
    """Why a row that seems to be meant in the normalised form is not in it; None of one that is not meant so."""
    if not {"id", "question"} <= row.keys():
        return None
    if "answer" not in row:
        return "in the normalised form it lacks 'answer'"
    unknown = sorted(row.keys() - _KEYS)
    return (
        f"the normalised form has no key {unknown[0]!r}, only {', '.join(_Row.__struct_fields__)}" if unknown else None
    )


def items_of(rows: Iterable[Mapping[str, Any]], kind: Kind, where: str, root: Path) -> Iterator[Item]:
    """Items from rows in the normalised form; files are looked for below `root`, `where` is named in errors.

    Raises:
        DataError: a row does not have that form; the message names line and key.
    """
    for number, row in enumerate(rows, start=1):
        try:
            yield _item(msgspec.convert(row, _Row), kind, root)
        except (msgspec.ValidationError, ValueError) as exc:
            raise DataError(f"{where}, line {number}: {exc}") from exc


def _item(row: _Row, kind: Kind, folder: Path) -> Item:
    return Item(
        id=row.id,
        question=row.question,
        answer=checked_answer(row.answer, row.choices, row.kind or kind),
        choices=row.choices,
        media=tuple(MediaRef(each.type, str(folder / each.path), text=each.text) for each in row.media),
        group=row.group,
        cluster=row.cluster,
        subtitles=None if row.subtitles is None else str(folder / row.subtitles),
        kind=row.kind,
    )


def checked_answer(answer: object, choices: tuple[str, ...], kind: Kind) -> Gold:
    """The gold answer as its kind needs it.

    Raises:
        ValueError: it is not an answer of that kind.
    """
    if kind is Kind.MCQ:
        if not isinstance(answer, int) or not 0 <= answer < len(choices):
            raise ValueError(f"answer {answer!r} is no index of the {len(choices)} choices")
        return answer
    if kind is Kind.VERIFY:
        return _instructions(answer)
    if kind is Kind.NUMBER:
        return number_text(answer)
    texts = tuple(answer) if isinstance(answer, list | tuple) else (answer,)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"answer {answer!r} is no text")
    return texts if len(texts) > 1 else texts[0]


def _instructions(answer: object) -> tuple[Instruction, ...]:
    try:
        found = msgspec.convert(msgspec.to_builtins(answer), list[_Instruction])
    except msgspec.ValidationError as exc:
        raise ValueError(f"the answer is no list of instructions [{{id, arguments}}, ...]: {exc}") from exc
    if not found:
        raise ValueError("the list of instructions is empty")
    return tuple(Instruction(each.id, each.arguments) for each in found)


def number_text(answer: object) -> str:
    """A gold number as text without thousands separators.

    Raises:
        ValueError: it is no number.
    """
    text = str(answer).strip().replace(",", "")
    if not isfinite(float(text)):  # ValueError when it is none
        raise ValueError(f"answer {text!r} is no number")
    return text
