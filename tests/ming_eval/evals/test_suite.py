from __future__ import annotations

from pathlib import Path

import pytest

from ming_eval.errors import DataError, UsageError
from ming_eval.evals.item import Kind
from ming_eval.evals.suite import MappedGroup, bundled_names, find_suite, placeholders, read_suite
from tests.ming_eval.evals.builders import MCQ_SUITE, write_suite


def test_a_suite_file_becomes_a_value(tmp_path: Path) -> None:
    suite = write_suite(tmp_path)
    assert (suite.name, suite.suite.version, suite.kind, suite.default_protocol) == ("fruit", 1, Kind.MCQ, "letter")
    assert suite.protocol(None) == ("letter", suite.protocols["letter"])
    assert suite.protocol("cot")[1].max_tokens == 64
    assert suite.folder == tmp_path
    with pytest.raises(AttributeError):
        suite.suite.version = 2  # type: ignore[misc]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('[suite]\ncolour = "red"', "colour"),
        ("[prompt.letter]\nbeam = 4", "beam"),
        ("[score]\nmetrik = 'x'", "metrik"),
        ("[extras]\na = 1", "extras"),
        ('[[published]]\nmodel = "m"\nmetric = "x"\nvalue = 1.0\nsource = "s"\nnote = "n"', "note"),
    ],
)
def test_unknown_keys_are_errors_that_name_the_key(tmp_path: Path, change: str, message: str) -> None:
    table, _, line = change.partition("\n")
    text = (
        MCQ_SUITE.replace(table + "\n", f"{table}\n{line}\n", 1) if table in MCQ_SUITE else f"{MCQ_SUITE}\n{change}\n"
    )
    with pytest.raises(DataError, match=message):
        write_suite(tmp_path, text)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ('kind = "mcq"', 'kind = "quiz"', "quiz"),
        ("version = 1", 'version = "one"', r"\$\.suite\.version"),
        ('name = "fruit"\n', "", "name"),
        ('default = "letter"', 'default = "other"', "other"),
        ('default = "letter"', "", "default_protocol"),
        ("{options}", "{choices}", r"\{choices\}"),
        ("{options}", "{options!r}", "options!r"),
        ("{question}", "{question.upper}", "question.upper"),
        ("{question}", "{question", "braces"),
        ('strata = "shelf"', 'strata = "floor"', "floor"),
        ("[suite]", "[suite", "TOML"),
    ],
)
def test_bad_values_are_named(tmp_path: Path, before: str, after: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        write_suite(tmp_path, MCQ_SUITE.replace(before, after))


def test_unknown_protocols_and_suites_are_named_with_the_choices(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="letter, cot"):
        write_suite(tmp_path).protocol("poem")
    with pytest.raises(UsageError, match="mmlu"):
        find_suite("no-such-suite")
    with pytest.raises(UsageError, match="no suite file"):
        find_suite(str(tmp_path / "nothing.toml"))
    with pytest.raises(DataError, match="cannot read"):
        read_suite(tmp_path / "nothing.toml")


def test_a_suite_is_found_by_name_file_and_folder(tmp_path: Path) -> None:
    write_suite(tmp_path / "mine")
    assert find_suite(str(tmp_path / "mine")).name == "fruit"
    assert find_suite(str(tmp_path / "mine" / "suite.toml")).name == "fruit"
    assert find_suite("mmlu").name == "mmlu"
    assert {"mmlu", "gsm8k"} <= set(bundled_names())


def test_a_mapped_group_knows_its_members() -> None:
    group = MappedGroup(column="subject", values={"science": ("physics", "biology")})
    assert group.name_of("biology") == "science"
    with pytest.raises(DataError, match="cooking"):
        group.name_of("cooking")


def test_placeholders() -> None:
    assert placeholders("{question} {{x}} {letters}") == {"question", "letters"}
