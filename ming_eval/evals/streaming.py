"""Files of a hub data set, read one after the other: no more of it is fetched than is used."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from ming_eval.errors import DataError
from ming_eval.evals.optional import require


def stream_files(
    repo: str, config: str | None, split: str, revision: str | None, column: str, limit: int
) -> Iterator[tuple[str, bytes]]:
    """Name and stored bytes of the first `limit` files in `column`, an image or audio column.

    Raises:
        UsageError: the package `datasets` is not installed.
        DataError: the data set cannot be reached or is not what it was.
    """
    datasets = require("datasets", purpose=f"reading {repo} from the hub (or name its folder with --dataset-dir)")
    where = f"{repo} ({config or 'default'}, {split}, revision {revision or 'main'})"
    try:
        table = datasets.load_dataset(repo, config, split=split, revision=revision, streaming=True)
        feature = datasets.Audio if column == "audio" else datasets.Image
        rows = table.cast_column(column, feature(decode=False))
        for number, row in enumerate(islice(rows, limit)):
            file = row[column]
            yield str(file.get("path") or f"{column}-{number}"), bytes(file["bytes"])
    except (OSError, ValueError, KeyError, TypeError) as exc:  # no network, no such set, another column
        first_line = str(exc).partition("\n")[0]
        raise DataError(
            f"cannot read {where} from the hub: {first_line}; or name a local copy with --dataset-dir"
        ) from exc
