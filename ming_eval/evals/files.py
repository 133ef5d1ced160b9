"""Rows of a local file: JSON lines, JSON, CSV, lists between vertical bars, or parquet."""

from __future__ import annotations

import csv
from codecs import BOM_UTF8
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from ming_eval.errors import DataError
from ming_eval.evals.optional import require

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """Every row of a file, by the ending of its name.

    Raises:
        DataError: the file is not there, or is not what its name says.
        UsageError: a parquet file, and pyarrow is not installed.
    """
    if not path.is_file():
        raise DataError(f"no data file at {path}")
    try:
        return _rows(path)
    except OSError as exc:
        raise DataError(f"cannot read {path}: {exc.strerror or exc}") from exc
    except UnicodeDecodeError as exc:
        raise DataError(f"{path} is no UTF-8: {exc}") from exc


def _rows(path: Path) -> list[Row]:
    match path.suffix.lower():
        case ".jsonl" | ".ndjson":
            return list(_json_lines(path))
        case ".json":
            return _json(path)
        case ".csv" | ".tsv":
            return list(_csv(path))
        case ".lst":
            return list(_meta_list(path))
        case ".parquet":
            return _parquet(path)
    raise DataError(f"cannot tell what {path} holds: name it .jsonl, .json, .csv, .tsv, .lst or .parquet")


def _json_lines(path: Path) -> Iterator[Row]:
    decode = msgspec.json.Decoder(Row).decode
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            text = line.removeprefix(BOM_UTF8) if number == 1 else line
            if not text.strip():
                continue
            try:
                yield decode(text)
            except msgspec.DecodeError as exc:
                raise DataError(f"{path}, line {number}: {exc}") from exc


def _json(path: Path) -> list[Row]:
    """A list of rows, or a map of them."""
    try:
        content = msgspec.json.decode(path.read_bytes().removeprefix(BOM_UTF8), type=list[Row] | dict[str, Row])
        return list(content.values()) if isinstance(content, dict) else content
    except msgspec.DecodeError as exc:
        raise DataError(f"{path}: {exc}") from exc


def _csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(2**24)  # passages of tens of kilobytes are in one cell
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise DataError(f"{path}, line {reader.line_num}: not as many cells as the header has")
                yield row
        except (csv.Error, UnicodeDecodeError) as exc:
            raise DataError(f"{path}, near line {reader.line_num}: {exc}") from exc


def _meta_list(path: Path) -> Iterator[Row]:
    """Fields between vertical bars: id, text and file of the voice to speak with, text to speak (Seed-TTS-eval)."""
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        cells = line.split("|")
        if len(cells) not in (4, 5):
            raise DataError(f"{path}, line {number}: {len(cells)} fields, expected 4 or 5 between vertical bars")
        yield dict(zip(("id", "prompt_text", "prompt_audio", "text"), cells, strict=False))


def _parquet(path: Path) -> list[Row]:
    parquet = require("pyarrow.parquet", purpose=f"reading {path.name}")
    arrow = require("pyarrow", purpose=f"reading {path.name}")
    try:
        rows: list[Row] = parquet.read_table(path).to_pylist()
    except arrow.ArrowInvalid as exc:
        raise DataError(f"{path} is no parquet file: {exc}") from exc
    return rows
