"""Options from TOML and YAML files."""

from __future__ import annotations

from pathlib import Path

import pytest

from ming_eval.config_file import read_config
from ming_eval.errors import UsageError

OPTIONS = {
    "max-tokens": "max_tokens",
    "backend": "backend",
    "concurrency": "concurrency",
    "no-ignore-eos": "ignore_eos",
}


def read(tmp_path: Path, text: str, name: str = "run.toml") -> dict[str, object]:
    path = tmp_path / name
    path.write_text(text)
    return dict(read_config(path, OPTIONS, {"backend"}))


def test_values_by_parameter_however_they_are_spelled(tmp_path: Path) -> None:
    found = read(tmp_path, 'max-tokens = 128\nconcurrency = "1..8"\nbackend = ["a=http://a", "b=http://b"]\n')
    assert found == {"max_tokens": 128, "concurrency": "1..8", "backend": ["a=http://a", "b=http://b"]}
    assert read(tmp_path, 'max_tokens = 64\nbackend = "a=http://a"') == {"max_tokens": 64, "backend": ["a=http://a"]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max-token = 1", "unknown option 'max-token': did you mean max-tokens"),
        ("xyz = 1", "unknown option 'xyz': known are backend, "),
        ("max-tokens = [1, 2]", "max-tokens takes one value"),
        ("[max-tokens]\nx = 1", "max-tokens takes one value"),
        ("max-tokens 1", "is not TOML"),
    ],
)
def test_what_is_no_option_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(tmp_path, text)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read .*nope.toml"):
        read_config(tmp_path / "nope.toml", OPTIONS, ())


def test_yaml_says_the_same_as_toml(tmp_path: Path) -> None:
    text = "max-tokens: 128  # longer\nconcurrency: 1..8\nbackend:\n  - a=http://a\n  - b=http://b\n"
    found = read(tmp_path, text, "run.yaml")
    assert found == {"max_tokens": 128, "concurrency": "1..8", "backend": ["a=http://a", "b=http://b"]}
    assert read(tmp_path, "# nothing yet\n", "run.yml") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max-token: 1", "unknown option 'max-token': did you mean max-tokens"),
        ("- max-tokens", "is not YAML: it holds a list, not options"),
        ("max-tokens: [1", "is not YAML: while parsing a flow sequence"),
        ("max-tokens: {low: 1}", "max-tokens takes one value"),
        ("max-tokens: !!python/object/apply:os.getcwd []", "is not YAML"),
    ],
)
def test_what_is_no_option_is_refused_in_yaml_too(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(tmp_path, text, "run.yaml")
