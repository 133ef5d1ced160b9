"""Where a suite's items come from: the bundled sample, a local file, or a hub at a pinned revision; checked on load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ming_eval.accuracy_results import DataOrigin
from ming_eval.errors import DataError, UsageError
from ming_eval.evals import columns, normalised
from ming_eval.evals.digest import digest
from ming_eval.evals.files import Row, read_rows
from ming_eval.evals.hub import current_revision, hub_rows, split_revision
from ming_eval.evals.item import Item
from ming_eval.evals.sampling import by_stratum
from ming_eval.evals.sources import LOADERS
from ming_eval.evals.suite import Suite

HUB = "hub"
SAMPLE_FILE = "sample.jsonl"


@dataclass(frozen=True, slots=True)
class Dataset:
    """Items, and solved examples where a protocol asks for some, with where they come from."""

    items: tuple[Item, ...]
    examples: tuple[Item, ...]
    origin: DataOrigin


@dataclass(frozen=True, slots=True)
class DataOptions:
    """What the command line says about data. Without `data` the bundled sample is used."""

    data: str | None = None
    examples: str | None = None
    media_root: str | None = None


def load(suite: Suite, options: DataOptions, *, needs_examples: bool = False, needs_media: bool = True) -> Dataset:
    """The suite's items from where the options say.

    Of a set whose media are files of their own, only the items that have theirs: a part of them may be downloaded.

    Raises:
        DataError: the data is not there, or not as the suite file describes it.
        UsageError: the data cannot be meant, or a package to read it is missing.
    """
    kind, name, revision = _place(suite, options.data)
    rows = _rows(suite, kind, name, revision, suite.source.split)
    is_columns = not rows or not normalised.is_normalised(rows[0])
    items = _items(suite, rows, Path(name), options.media_root)
    _check(suite, items, name)
    if kind == "hub" and suite.source.rows is not None and len(items) != suite.source.rows:
        raise DataError(f"{name}: expected {suite.source.rows} rows at revision {revision}, found {len(items)}")
    available = None
    if is_columns and needs_media and any(fields.pattern is not None for fields in suite.media):
        items, available = _with_media(suite, items)
    full_rows = None if kind == "sample" else suite.source.rows
    origin = DataOrigin(kind, name, revision, len(items), full_rows, _digest(items), available)
    return Dataset(tuple(items), _examples(suite, kind, name, revision, options) if needs_examples else (), origin)


def _place(suite: Suite, data: str | None) -> tuple[str, str, str | None]:
    """Kind, name and revision of the data."""
    source = suite.source
    if data is None:
        path = Path(source.path) if source.path is not None else suite.folder / SAMPLE_FILE
        path = path if path.is_absolute() else suite.folder / path
        if not path.exists():
            raise UsageError(f"suite {suite.name} has no bundled sample: name its data with --data")
        return ("file" if source.path is not None else "sample"), str(path), None
    if Path(data).exists():
        return "file", data, None
    name, revision = split_revision(data)
    if name == HUB and source.repo is None:
        raise UsageError(f"suite {suite.name} names no repository: give a file with --data PATH")
    if name in (HUB, source.repo):
        assert source.repo is not None
        return "hub", source.repo, revision or source.revision or current_revision(source.repo)
    if name.count("/") == 1 and not Path(name).suffix:
        return "hub", name, revision or current_revision(name)
    raise DataError(
        f"no data at {data!r}: name a file or folder, a repository OWNER/NAME, or `hub` for the suite's own"
    )


def _rows(suite: Suite, kind: str, name: str, revision: str | None, split: str | None) -> list[Row]:
    path = Path(name)
    rows = hub_rows(suite, name, revision, split) if kind == "hub" or path.is_dir() else read_rows(path)
    loader = suite.source.loader
    if loader is None or (rows and normalised.is_normalised(rows[0])):
        return rows
    if loader not in LOADERS:
        raise DataError(f"suite {suite.name}: no loader {loader!r}: choose one of {', '.join(LOADERS)}")
    try:
        return [LOADERS[loader](row) for row in rows]
    except KeyError as exc:
        raise DataError(f"{name}: no column {exc.args[0]!r}; the data has {', '.join(rows[0])}") from exc


def _items(suite: Suite, rows: Sequence[Row], where: Path, media_root: str | None) -> list[Item]:
    root = Path(media_root) if media_root is not None else _folder_of(where)
    if rows and normalised.is_normalised(rows[0]):
        return list(normalised.items_of(rows, suite.kind, str(where), root or where.parent))
    return list(columns.items_of(rows, suite, root))


def _folder_of(data: Path) -> Path | None:
    """Where the files of a local set are; None for one from the hub."""
    return data if data.is_dir() else data.parent if data.is_file() else None


def _with_media(suite: Suite, items: Sequence[Item]) -> tuple[list[Item], dict[str, tuple[int, int]] | None]:
    """The items whose files are there; and how many of how many, by stratum, where some are not."""
    kept = [item for item in items if all(ref.data or Path(ref.path).exists() for ref in item.media)]
    if not kept:
        example = next(ref.path for item in items for ref in item.media)
        raise DataError(f"{suite.name}: no media files, such as {example}: name their folder with --media-root")
    if len(kept) == len(items):
        return kept, None
    strata = suite.sampling.strata
    found, wanted = by_stratum(kept, strata), by_stratum(items, strata)
    return kept, {name: (len(found.get(name, ())), len(each)) for name, each in wanted.items()}


def _check(suite: Suite, items: Sequence[Item], name: str) -> None:
    if not items:
        raise DataError(f"{name} holds no item of {suite.name}")
    item_id, count = Counter(item.id for item in items).most_common(1)[0]
    if count > 1:
        raise DataError(f"{name}: {count} items have the id {item_id!r}; ids must differ")


def _examples(suite: Suite, kind: str, name: str, revision: str | None, options: DataOptions) -> tuple[Item, ...]:
    if options.examples is not None:
        path = Path(options.examples)
        return tuple(_items(suite, read_rows(path), path, options.media_root))
    if (kind == "hub" or Path(name).is_dir()) and suite.source.examples is not None:
        rows = _rows(suite, kind, name, revision, suite.source.examples)
        return tuple(_items(suite, rows, Path(name), options.media_root))
    raise UsageError(f"this protocol of {suite.name} shows solved examples: name a file of them with --examples PATH")


def _digest(items: Sequence[Item]) -> str:
    return digest([[item.id, item.question, item.choices, msgspec.to_builtins(item.answer)] for item in items])
