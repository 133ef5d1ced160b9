"""The options that say which servers are measured, the same in every command that measures."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from ming_eval.errors import UsageError

if TYPE_CHECKING:
    from ming_eval.targets import Target

BackendOption = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=URL", help="A server to measure; repeatable. Without it, the bundled engine runs."),
]
ModelOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME|BACKEND=NAME,...",
        help="Model to ask for, of all backends or of those named, repeatable [default: the first one listed]; "
        "of the bundled engine, what it loads.",
    ),
]
DialectOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME|BACKEND=NAME,...",
        help="How the servers spell the API, all or those named; repeatable. [default: from their model card]",
    ),
]
HeaderOption = Annotated[
    list[str] | None, typer.Option(metavar="'NAME: VALUE'", help="Sent to every server; repeatable, never stored.")
]
ApiKeyOption = Annotated[
    str | None, typer.Option(metavar="VARIABLE", help="Environment variable that holds the API key.")
]


@dataclass(frozen=True, slots=True)
class Servers:
    """What is measured: `targets`, or the bundled engine, started with `engine_args`, when there are none.

    `guess_dialect` is for the backends that are not in `with_dialect`, by name.
    """

    targets: tuple[Target, ...]
    guess_dialect: bool
    engine_args: tuple[str, ...]
    with_dialect: frozenset[str] = frozenset()

    def guesses(self, target: Target) -> bool:
        """True when the server is asked which dialect it speaks."""
        return self.guess_dialect and target.name not in self.with_dialect


def choose_servers(
    backends: Sequence[str],
    *,
    model: Sequence[str],
    dialect: Sequence[str],
    headers: Sequence[str],
    key_variable: str | None,
    engine_args: Sequence[str],
) -> Servers:
    """The servers that these options name.

    Raises:
        UsageError: an option cannot be read, or two of them contradict each other.
    """
    models, dialects = _Choice.read(model, backends), _Choice.read(dialect, backends)
    targets = _targets(backends, models, dialects, headers, key_variable)
    if engine_args and not engine_args[0].startswith("-"):
        raise UsageError(f"unexpected argument {engine_args[0]!r}: a server is named with --backend NAME=URL")
    if engine_args and targets:
        raise UsageError("options after -- are for the bundled engine, which does not run when --backend is given")
    loaded = ("--model", models.otherwise) if models.otherwise is not None and not targets else ()
    return Servers(targets, dialects.otherwise is None, (*loaded, *engine_args), frozenset(dialects.named))


@dataclass(frozen=True, slots=True)
class _Choice:
    """An option's value for each backend: by name, else `otherwise`."""

    named: dict[str, str]
    otherwise: str | None

    @classmethod
    def read(cls, texts: Sequence[str], backends: Sequence[str]) -> _Choice:
        """`a=x,b=y` where a and b are backends; anything else but a slip of these is one value for all others.

        Raises:
            UsageError: a backend that is not there, or two values where one can count.
        """
        names = [name for name, _ in map(_split_backend, backends) if name is not None]
        named: dict[str, str] = {}
        otherwise: list[str] = []
        for name, value in (part for text in texts for part in _split_values(text, names)):
            if name is None:
                otherwise.append(value)
            elif name in named or not value:
                raise UsageError(f"cannot read {name}={value}: write BACKEND=NAME once for each backend")
            else:
                named[name] = value
        if len(otherwise) > 1:
            raise UsageError(f"{' and '.join(otherwise)} are both for all backends: write BACKEND=NAME for one of them")
        return cls(named, otherwise[0] if otherwise else None)

    def of(self, name: str | None) -> str | None:
        """The value for the backend called `name`."""
        return self.named.get(name, self.otherwise) if name is not None else self.otherwise


def _split_values(text: str, names: Sequence[str]) -> list[tuple[str | None, str]]:
    """Backend and value of each part; no backend where the whole is one value, commas and equal signs included.

    Raises:
        UsageError: a backend that is not there; no dialect and no model of a hub looks like one.
    """
    start = "|".join(map(re.escape, names))
    if not names or not re.match(rf"(?:{start})=", text):
        slip = re.match(r"([A-Za-z0-9][A-Za-z0-9._-]{0,63})=", text)
        if slip and names:
            raise UsageError(f"{text!r} names no backend: there is no {slip[1]!r}, only {', '.join(names)}")
        return [(None, text)]
    parts = (part.partition("=") for part in re.split(rf",(?=(?:{start})=)", text))
    return [(name, value) for name, _, value in parts]


def _targets(
    backends: Sequence[str], models: _Choice, dialects: _Choice, headers: Sequence[str], key_variable: str | None
) -> tuple[Target, ...]:
    from ming_eval.targets import Target

    pairs = [_header(text) for text in headers]
    api_key = _api_key(key_variable)
    targets = []
    for text in backends:
        name, url = _split_backend(text)
        dialect = dialects.of(name) or "openai"
        targets.append(
            Target.at(url, name=name, model=models.of(name), headers=pairs, api_key=api_key, dialect=dialect)
        )
    names = [target.name for target in targets]
    if len(set(names)) != len(names):
        raise UsageError(f"two backends have one name in {', '.join(names)}: write --backend NAME=URL with other names")
    return tuple(targets)


def _split_backend(text: str) -> tuple[str | None, str]:
    """Name and URL of `NAME=URL`; a bare URL has no name."""
    name, equals, url = text.partition("=")
    if not equals or "://" in name:
        return None, text
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        raise UsageError(f"bad backend name {name!r}: use letters, digits, dot, dash and underscore")
    return name, url


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise UsageError("a header without a colon: write --header 'NAME: VALUE'")
    return name.strip(), value.strip()


def _api_key(variable: str | None) -> str | None:
    if variable is None:
        return None
    if variable not in os.environ:
        raise UsageError(f"--api-key-env {variable}: there is no such environment variable")
    return os.environ[variable]
