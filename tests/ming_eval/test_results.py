from pathlib import Path

import msgspec
import pytest

from ming_eval import results
from ming_eval.errors import DataError
from tests.ming_eval.factories import make_point, make_summary


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    summary = make_summary(make_point(1), make_point(2, 190.0))
    results.write(summary, tmp_path / "summary.json")
    assert results.read(tmp_path) == summary
    assert results.read(tmp_path / "summary.json") == summary
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]  # no draft is left


def test_json_has_the_keys_that_others_rely_on(tmp_path: Path) -> None:
    results.write(make_summary(make_point(1)), tmp_path / "summary.json")
    content = msgspec.json.decode((tmp_path / "summary.json").read_bytes())
    assert content["format"] == 1
    (point,) = content["points"]
    assert point.keys() >= {
        *("backend", "task", "concurrency", "requests", "failed", "output_tokens", "wall_s", "requests_per_s"),
        *("output_tokens_per_s", "ttft_ms", "tpot_ms", "itl_ms", "e2e_ms"),
    }
    assert all(point[f"{name}_ms"].keys() >= {"mean", "p50", "p95", "p99"} for name in ("ttft", "tpot", "itl", "e2e"))


def test_readme_names_every_key_of_a_point_and_of_the_summary() -> None:
    readme = (Path(__file__).parents[2] / "results" / "README.md").read_text(encoding="utf-8")
    keys = {*results.Point.__dataclass_fields__, *results.Summary.__dataclass_fields__}
    assert {key for key in keys if f"`{key}`" not in readme} == set()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ('{"format": 2}', "format 2, this version reads 1"),
        ('{"points": []}', "is not what this version writes"),
        ('{"format": 1, "run": 3}', "is not what this version writes"),
        ("{", "is not what this version writes"),
        ("[]", "is not what this version writes"),
    ],
)
def test_anything_else_is_a_data_error_that_names_the_file(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "summary.json"
    path.write_text(content)
    with pytest.raises(DataError, match=complaint) as caught:
        results.read(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        results.read(tmp_path / "summary.json")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    path.write_text("old")
    (tmp_path / "summary.json.part").mkdir()  # in the way of the draft
    with pytest.raises(DataError, match="cannot write"):
        results.write(make_summary(make_point(1)), path)
    assert path.read_text() == "old"
