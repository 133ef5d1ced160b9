"""Options of a command from a TOML file, spelled as on the command line: `max-tokens = 128`."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path

from ming_eval.errors import UsageError

Value = str | int | float | bool | list[str]


def read_config(path: Path, options: Mapping[str, str], repeatable: Collection[str]) -> dict[str, Value]:
    """The values in `path` by parameter; `options` maps what a user writes (`max-tokens`) to the parameter.

    Options in `repeatable` take a list, or one value alone.

    Raises:
        UsageError: the file cannot be read, is not TOML, or holds something that is no option.
    """
    found: dict[str, Value] = {}
    for key, value in _read(path).items():
        name = key.replace("_", "-")
        if name not in options:
            near = get_close_matches(name, options, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(options))}"
            raise UsageError(f"{path}: unknown option {key!r}: {hint}")
        found[options[name]] = _checked(path, key, value, many=options[name] in repeatable)
    return found


def _read(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise UsageError(f"cannot read {path}: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise UsageError(f"{path} is not TOML: {exc}") from exc


def _checked(path: Path, key: str, value: object, *, many: bool) -> Value:
    match value:
        case list() if many and all(isinstance(each, str | int | float) for each in value):
            return [str(each) for each in value]
        case str() | bool() | int() | float():
            return [str(value)] if many else value
    wanted = "a value or a list of values" if many else "one value"
    raise UsageError(f"{path}: {key} takes {wanted}, not {value!r}")
