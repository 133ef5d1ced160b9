"""Options of a command from a YAML or TOML file, spelled as on the command line: `max-tokens: 128`."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from difflib import get_close_matches
from pathlib import Path

from ming_eval.errors import UsageError

Value = str | int | float | bool | list[str]


def read_config(path: Path, options: Mapping[str, str], repeatable: Collection[str]) -> dict[str, Value]:
    """The values in `path` by parameter; `options` maps what a user writes (`max-tokens`) to the parameter.

    Options in `repeatable` take a list, or one value alone. A name that ends in .yaml or .yml is read as YAML, any
    other as TOML.

    Raises:
        UsageError: the file cannot be read, is neither, or holds something that is no option.
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
    is_yaml = path.suffix.lower() in (".yaml", ".yml")
    try:
        text = path.read_text(encoding="utf-8")
        return _read_yaml(text) if is_yaml else tomllib.loads(text)
    except OSError as exc:
        raise UsageError(f"cannot read {path}: {exc.strerror}") from exc
    except ValueError as exc:  # TOMLDecodeError and UnicodeDecodeError are among them
        raise UsageError(f"{path} is not {'YAML' if is_yaml else 'TOML'}: {exc}") from exc


def _read_yaml(text: str) -> dict[str, object]:
    """A map of options.

    Raises:
        ValueError: the text is no YAML, or another thing than a map.
    """
    import yaml  # a run without a file need not pay for it

    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise ValueError(" ".join(str(exc).split())) from exc
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, not options such as max-tokens: 128")
    return {str(key): value for key, value in content.items()}


def _checked(path: Path, key: str, value: object, *, many: bool) -> Value:
    match value:
        case list() if many and all(isinstance(each, str | int | float) for each in value):
            return [str(each) for each in value]
        case str() | bool() | int() | float():
            return [str(value)] if many else value
    wanted = "a value or a list of values" if many else "one value"
    raise UsageError(f"{path}: {key} takes {wanted}, not {value!r}")
