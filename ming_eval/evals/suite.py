"""`suite.toml` -> `Suite`: what is asked and how it is scored, as data. Unknown keys are errors.

A user's own file works like a bundled one; neither can bring code.
"""

from __future__ import annotations

import string
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from ming_eval.errors import DataError, UsageError
from ming_eval.evals.item import Kind

PLACEHOLDERS = frozenset({"question", "options", "letters", "subtitles", "examples"})


class About(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[suite]`. `redistribute`: whether question texts may be copied into results."""

    name: str
    version: int
    kind: Kind
    title: str = ""
    modalities: tuple[str, ...] = ("text",)
    licence: str = "unknown"
    redistribute: bool = True
    caveats: tuple[str, ...] = ()


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[source]`: where the full set is, and what must be true of it.

    `config` can be several configurations, read one after the other. `examples` names the split of solved examples.
    """

    repo: str | None = None
    config: str | tuple[str, ...] | None = None
    split: str | None = None
    revision: str | None = None
    rows: int | None = None
    path: str | None = None
    loader: str | None = None
    examples: str | None = None


class Fields(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[fields]`: columns of the source. `id` may be a pattern such as `{subject}-{row}`.

    `answer_form`: `index` or `letter` of a choice, the `text` of a choice or of the answer, or what stands in the text
    `after-marker` (`answer_marker`). `strip_letters` removes `A. ` in front of choices.
    """

    id: str = "{row}"
    question: str | None = None
    choices: str | tuple[str, ...] | None = None
    answer: str | None = None
    answer_form: str = "text"
    answer_marker: str | None = None
    strip_letters: bool = False
    kind: str | None = None
    subtitles: str | None = None


class MediaFields(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[media]`: the column that holds a file, its name or its bytes; or a name `pattern`, below the folder `root`.

    `text` names the column with what is said in a sound.
    """

    type: str
    column: str | None = None
    pattern: str | None = None
    root: str | None = None
    text: str | None = None


class MappedGroup(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A reporting dimension made of the values of another: `values` lists which become which."""

    column: str
    values: Mapping[str, tuple[str, ...]]

    def name_of(self, value: str) -> str:
        """The group that `value` belongs to.

        Raises:
            DataError: it is in none.
        """
        for name, members in self.values.items():
            if value in members:
                return name
        raise DataError(f"{self.column} {value!r} is in no group of the suite file: add it or mend the data")


class Sampling(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[sampling]`: the reporting dimension that strata are made of, and the column of what is not independent."""

    strata: str | None = None
    cluster: str | None = None


class Protocol(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[prompt.<name>]`: one way to ask. `examples` solved ones go in front as turns, or where the text says.

    `open_text` asks items without choices in a set where others have some. `media` false leaves the files away.
    `as_frames` sends a video as images: `frames` at the centres of as many equal slices, `frame_height` pixels high.
    `subtitles`: `full`, or `sampled` at the same times.
    """

    text: str
    max_tokens: int
    open_text: str | None = None
    temperature: float = 0.0
    system: str | None = None
    extra: Mapping[str, Any] = {}
    examples: int = 0
    media: bool = True
    subtitles: str | None = None
    frames: int | None = None
    as_frames: bool = False
    frame_height: int | None = None
    origin: str = ""

    @property
    def choices_made(self) -> dict[str, Any]:
        """Prompt, length and what is not at its default, as plain values: the same whatever fields are added later."""
        plain = msgspec.to_builtins(Protocol(text="", max_tokens=0))
        return {name: value for name, value in msgspec.to_builtins(self).items() if value != plain[name]}


class Scoring(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[score]`. `answer_map` turns letters of another script into A, B, C, ..."""

    metric: str = "accuracy"
    normaliser: str | None = None
    tolerance: float | None = None
    answer_map: Mapping[str, str] = {}


class Published(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[[published]]`: a figure that somebody else reports by `protocol`.

    Without a list of differences it is not shown: two figures without one do not compare.
    """

    model: str
    metric: str
    value: float
    source: str
    protocol: str | None = None
    differences: tuple[str, ...] | None = None


class Suite(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A whole suite file. `folder` is where it lies."""

    suite: About
    default_protocol: str
    protocols: Mapping[str, Protocol]
    source: Source = Source()
    fields: Fields = Fields()
    media: tuple[MediaFields, ...] = ()
    groups: Mapping[str, str | MappedGroup] = {}
    sampling: Sampling = Sampling()
    score: Scoring = Scoring()
    published: tuple[Published, ...] = ()
    folder: Path

    @property
    def name(self) -> str:
        """The suite's name."""
        return self.suite.name

    @property
    def kind(self) -> Kind:
        """How its answers are read."""
        return self.suite.kind

    def protocol(self, name: str | None) -> tuple[str, Protocol]:
        """The named protocol, or the default one, with its name.

        Raises:
            UsageError: there is no such protocol.
        """
        name = name or self.default_protocol
        if name not in self.protocols:
            raise UsageError(f"suite {self.name} has no protocol {name!r}: choose one of {', '.join(self.protocols)}")
        return name, self.protocols[name]


def suites_folder() -> Path:
    """Where the bundled suites lie."""
    return Path(str(resources.files("suites")))


def bundled_names() -> list[str]:
    """Names of the bundled suites."""
    return sorted(path.parent.name for path in suites_folder().glob("*/suite.toml"))


def find_suite(name: str) -> Suite:
    """A bundled suite by its name, or any by the path of its file or folder.

    Raises:
        UsageError: there is none.
        DataError: its file is not a suite file.
    """
    path = Path(name)
    if name in bundled_names():
        path = suites_folder() / name
    elif name.removesuffix("/").endswith(".toml") or "/" in name or (path / "suite.toml").exists():
        if not path.exists():
            raise UsageError(f"no suite file at {name}")
    else:
        raise UsageError(f"no suite {name!r}: choose one of {', '.join(bundled_names())}, or name a suite.toml")
    return read_suite(path / "suite.toml" if path.is_dir() else path)


def read_suite(path: Path) -> Suite:
    """A suite from its file.

    Raises:
        DataError: the file cannot be read or is no suite file; the message names the key.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise DataError(f"cannot read {path}: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise DataError(f"{path} is not TOML: {exc}") from exc
    try:
        suite = msgspec.convert(_arranged(tables, path.parent), Suite, dec_hook=_path)
    except msgspec.ValidationError as exc:
        raise DataError(f"{path}: {exc}") from exc
    _check(suite, path)
    return suite


def _arranged(tables: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The file's tables as `Suite` names them: `[prompt]` holds one value and one table per protocol."""
    tables = dict(tables)
    prompt = tables.pop("prompt", {})
    if not isinstance(prompt, dict):
        raise msgspec.ValidationError("Expected a table - at `$.prompt`")
    protocols = {name: value for name, value in prompt.items() if name != "default"}
    if "default" in prompt:
        tables["default_protocol"] = prompt["default"]
    if isinstance(tables.get("media"), dict):
        tables["media"] = [tables["media"]]
    return tables | {"protocols": protocols, "folder": folder}


def _path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, Path):
        return value
    raise NotImplementedError


def _check(suite: Suite, path: Path) -> None:
    """What types cannot say."""
    if suite.default_protocol not in suite.protocols:
        raise DataError(f"{path}: prompt.default is {suite.default_protocol!r}, but there is no such [prompt.*] table")
    for name, protocol in suite.protocols.items():
        if unknown := sorted(placeholders(protocol.text + (protocol.open_text or "")) - PLACEHOLDERS):
            raise DataError(
                f"{path}: prompt.{name}.text uses {{{unknown[0]}}}: "
                f"only {', '.join(f'{{{each}}}' for each in sorted(PLACEHOLDERS))} exist"
            )
        if protocol.subtitles not in (None, "sampled", "full"):
            raise DataError(f"{path}: prompt.{name}.subtitles is {protocol.subtitles!r}: write 'sampled' or 'full'")
        if (protocol.as_frames or protocol.subtitles == "sampled") and not protocol.frames:
            raise DataError(f"{path}: prompt.{name} samples times, but has no number of frames")
    if suite.fields.answer_form not in ("index", "letter", "text", "after-marker"):
        raise DataError(
            f"{path}: fields.answer_form is {suite.fields.answer_form!r}: write index, letter, text or after-marker"
        )
    if suite.sampling.strata is not None and suite.sampling.strata not in suite.groups:
        raise DataError(f"{path}: sampling.strata is {suite.sampling.strata!r}, which is not in [groups]")


def placeholders(text: str) -> set[str]:
    """Names in braces; a format specification or an attribute in them counts as part of the name.

    Raises:
        DataError: the braces do not pair.
    """
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as exc:
        raise DataError(f"bad braces in the prompt {text[:60]!r}: {exc}; write {{{{ and }}}} for plain ones") from exc
    names = set()
    for _, name, spec, conversion in parts:
        if name is not None:
            names.add(name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else ""))
    return names
