"""Rows of a hub repository, or of a copy of one in a folder, through `datasets`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ming_eval.errors import DataError
from ming_eval.evals.files import Row
from ming_eval.evals.optional import require
from ming_eval.evals.suite import MediaFields, Suite


def split_revision(name: str) -> tuple[str, str | None]:
    """Repository and revision of `OWNER/NAME` or `OWNER/NAME@REVISION`."""
    repo, _, revision = name.partition("@")
    return repo, revision or None


def current_revision(repo: str) -> str:
    """The commit that the repository's main branch is at now, so that a run says which data it asked.

    Raises:
        DataError: there is no such repository, or no network.
    """
    hub = require("huggingface_hub", purpose=f"loading {repo} from the hub")
    try:
        return str(hub.HfApi().dataset_info(repo).sha)
    except (OSError, ValueError, RuntimeError) as exc:
        raise DataError(f"cannot find {repo} on the hub: {_first_line(exc)}; or use --data PATH") from exc


def hub_rows(suite: Suite, repo: str, revision: str | None, split: str | None) -> list[Row]:
    """The split's rows of every configuration of the suite, one after the other; `repo` may be a folder.

    Images and sounds are left as the bytes that are stored.

    Raises:
        DataError: it cannot be loaded.
        UsageError: `datasets` is not installed.
    """
    datasets = require("datasets", purpose=f"loading {repo}")
    config = suite.source.config
    configs = config if isinstance(config, tuple) else (config,)
    return [row for name in configs for row in _rows(datasets, suite.media, repo, name, revision, split)]


def _rows(
    datasets: Any,
    media: Sequence[MediaFields],
    repo: str,
    config: str | None,
    revision: str | None,
    split: str | None,
) -> list[Row]:
    try:
        table = datasets.load_dataset(repo, config, split=split, revision=revision)
    # No network, no such repository, configuration or split; RuntimeError: a set that wants to run code of its own.
    except (OSError, ValueError, RuntimeError) as exc:
        at = "a folder" if Path(repo).is_dir() else f"revision {revision or 'main'}"
        where = f"{repo} ({config or 'default'}, {split}, {at})"
        raise DataError(f"cannot load {where}: {_first_line(exc)}; or use --data PATH with a file") from exc
    return _undecoded(datasets, media, table)


def _undecoded(datasets: Any, media: Sequence[MediaFields], table: Any) -> list[Row]:
    for fields in media:
        if fields.column is not None and fields.type in ("image", "audio"):
            feature = datasets.Image if fields.type == "image" else datasets.Audio
            if fields.column not in table.column_names:
                raise DataError(f"no column {fields.column!r}; the data has {', '.join(table.column_names)}")
            table = table.cast_column(fields.column, feature(decode=False))
    return list(table)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
