"""Rows in the columns of a published data set -> items, as `[fields]`, `[media]` and `[groups]` of a suite say."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from string import ascii_uppercase
from typing import Any, Literal, cast

import msgspec

from ming_eval.errors import DataError
from ming_eval.evals.item import Item, Kind, MediaRef
from ming_eval.evals.normalised import checked_answer, is_normalised, number_text, shortfall
from ming_eval.evals.suite import Fields, MappedGroup, MediaFields, Suite, placeholders

_LETTER_PREFIX = re.compile(r"^\s*\(?[A-Z]\s*[.):]\s*")


def items_of(rows: Iterable[Mapping[str, Any]], suite: Suite, root: Path | None) -> Iterator[Item]:
    """Items from rows in the suite's columns; files are looked for below `root`.

    Raises:
        DataError: a column is missing, or a value is not what the suite file says.
    """
    for number, row in enumerate(rows):
        try:
            yield _item(row, number, suite, root)
        except KeyError as exc:
            raise DataError(_missing_column(suite, row, str(exc.args[0]))) from exc
        except ValueError as exc:
            raise DataError(f"row {number} of {suite.name}: {exc}") from exc


def _item(row: Mapping[str, Any], number: int, suite: Suite, root: Path | None) -> Item:
    fields = suite.fields
    kind = suite.kind if fields.kind is None else Kind(str(row[fields.kind]))
    choices = _choices(row, fields) if kind is Kind.MCQ or kind is Kind.LABEL else ()
    cluster = suite.sampling.cluster
    return Item(
        id=_pattern(fields.id, row, number),
        question="" if fields.question is None else str(row[fields.question]),
        answer=checked_answer(_answer(row, fields, kind, choices), choices, kind),
        choices=choices,
        media=tuple(ref for each in suite.media for ref in _media(row, number, each, root)),
        group={name: _group(row, column) for name, column in suite.groups.items()},
        cluster=None if cluster is None else str(row[cluster]),
        subtitles=_file_name(fields.subtitles, row, number, root),
        kind=None if fields.kind is None else kind,
    )


def _missing_column(suite: Suite, row: Mapping[str, Any], column: str) -> str:
    missing = f"{suite.name}: no column {column!r}; the data has {', '.join(map(str, row))}"
    if is_normalised(row):
        return f"{missing}; the row looks like the normalised form, but others in the file do not"
    hint = shortfall(row)
    return missing if hint is None else f"{missing}; {hint}"


def _pattern(pattern: str, row: Mapping[str, Any], number: int) -> str:
    """A column's value, or a pattern over columns and `{row}`, the row's number."""
    if not placeholders(pattern):
        return str(row[pattern])
    return pattern.format_map({"row": number} | dict(row))


def _choices(row: Mapping[str, Any], fields: Fields) -> tuple[str, ...]:
    if fields.choices is None:
        return ()
    if isinstance(fields.choices, tuple):
        values: Sequence[Any] = [row[column] for column in fields.choices]
    else:
        values = listed(row[fields.choices])
    texts = tuple(str(value) for value in values)
    return tuple(_LETTER_PREFIX.sub("", text, count=1) for text in texts) if fields.strip_letters else texts


def listed(value: Any) -> Sequence[Any]:
    """A list; a text that holds one, as CSV files and some columns do, is read.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, str):
        try:
            value = msgspec.json.decode(value)
        except msgspec.DecodeError:
            value = _python_list(value)
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ValueError(f"{str(value)[:60]!r} is no list")
    return value


def _python_list(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError) as exc:
        raise ValueError(f"{text[:60]!r} is no list") from exc


def _answer(row: Mapping[str, Any], fields: Fields, kind: Kind, choices: tuple[str, ...]) -> object:
    if fields.answer is None:
        raise DataError("the suite file has no fields.answer, so that only data in the normalised form can be read")
    value = row[fields.answer]
    if kind is Kind.TEXT:  # an open question among others with choices
        return value
    match fields.answer_form:
        case "index":
            return _index(value)
        case "letter":
            return _letter_index(value)
        case "after-marker":
            return _after_marker(str(value), fields.answer_marker or "####", kind)
    return _text_index(str(value), choices) if kind is Kind.MCQ else value


def _index(value: Any) -> int:
    index = int(value)
    if index != float(value):
        raise ValueError(f"answer {value!r} is no index")
    return index


def _letter_index(value: Any) -> int:
    letter = str(value).strip().strip("().").upper()
    if len(letter) != 1 or letter not in ascii_uppercase:
        raise ValueError(f"answer {value!r} is no letter")
    return ascii_uppercase.index(letter)


def _text_index(value: str, choices: tuple[str, ...]) -> int:
    text = _LETTER_PREFIX.sub("", value, count=1).strip()
    found = [index for index, choice in enumerate(choices) if choice.strip() in (value.strip(), text)]
    if len(found) != 1:
        raise ValueError(f"answer {value!r} is {'no' if not found else 'more than one'} choice")
    return found[0]


def _after_marker(value: str, marker: str, kind: Kind) -> str:
    _, found, answer = value.rpartition(marker)
    if not found:
        raise ValueError(f"no {marker!r} in the answer {value[:60]!r}")
    return number_text(answer) if kind is Kind.NUMBER else answer.strip()


def _media(row: Mapping[str, Any], number: int, fields: MediaFields, root: Path | None) -> Iterator[MediaRef]:
    kind = cast(Literal["image", "audio", "video"], fields.type)
    if fields.pattern is not None:
        yield MediaRef(kind, _existing(_below(_pattern(fields.pattern, row, number), root)))
        return
    assert fields.column is not None
    value = row[fields.column]
    text = None if fields.text is None else str(row[fields.text])
    if value is None:  # a column of a question with fewer files
        return
    if isinstance(value, Mapping):  # as the hub stores files: {"bytes": ..., "path": ...}
        name = value.get("path") or f"row-{number}"
        yield MediaRef(kind, _below(str(name), root), value.get("bytes"), text)
    else:
        yield MediaRef(kind, _below(str(value), root), text=text)


def _group(row: Mapping[str, Any], column: str | MappedGroup) -> str:
    if isinstance(column, MappedGroup):
        return column.name_of(str(row[column.column]))
    return str(row[column])


def _file_name(pattern: str | None, row: Mapping[str, Any], number: int, root: Path | None) -> str | None:
    return None if pattern is None else _below(_pattern(pattern, row, number), root)


def _existing(name: str) -> str:
    """The first file of that name with any ending, where the name ends in `.*`; else the name as it is."""
    if not name.endswith(".*"):
        return name
    path = Path(name)
    return str(next(iter(sorted(path.parent.glob(path.name))), path)) if path.parent.is_dir() else name


def _below(name: str, root: Path | None) -> str:
    return name if root is None else str(root / name)
