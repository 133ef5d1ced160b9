"""`items.jsonl`: written whole at the end of a run, read again to see what a new scoring changes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from ming_eval import results
from ming_eval.accuracy_results import ItemResult
from ming_eval.errors import DataError

ITEMS_FILE = "items.jsonl"


def write_items(folder: Path, items: Iterable[ItemResult]) -> None:
    """Write one line an item.

    Raises:
        DataError: the file cannot be written.
    """
    encode = msgspec.json.Encoder().encode
    results.write_whole(folder / ITEMS_FILE, b"".join(encode(item) + b"\n" for item in items))


def read_items(folder: Path) -> list[ItemResult]:
    """The lines of a run; none where it was killed before they were written.

    Raises:
        DataError: the file cannot be read.
    """
    path = folder / ITEMS_FILE
    if not path.exists():
        return []
    try:
        return msgspec.json.decode(b"[" + b",".join(path.read_bytes().splitlines()) + b"]", type=list[ItemResult])
    except OSError as exc:
        raise DataError(f"cannot read {path}: {exc.strerror}") from exc
    except msgspec.DecodeError as exc:
        raise DataError(f"{path} is not what this version writes: {exc}") from exc
