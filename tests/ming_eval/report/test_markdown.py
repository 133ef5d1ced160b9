import re
from dataclasses import replace

from ming_eval.manifest import Git, Gpu
from ming_eval.report.markdown import sweep_markdown
from ming_eval.report.terminal import sweep_text
from ming_eval.results import Verdict
from tests.ming_eval.factories import make_backend, make_manifest, make_plan, make_point, make_summary

SUMMARY = make_summary(make_point(1, 100), make_point(2, 190, failed=7, failures={"reset": 7}))
MANIFEST = make_manifest(make_plan())


def rows(document: str) -> list[list[str]]:
    lines = [line for line in document.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_table_has_the_agreed_columns_and_values() -> None:
    header, _, first, second = rows(sweep_markdown(SUMMARY, MANIFEST))
    assert header == [
        *("backend", "c", "requests", "failed", "wall s", "E2E p50 / p95", "TTFT p50 / p95", "TPOT", "ITL p99"),
        *("req/s", "tok/s", "x c=1"),
    ]
    assert first == ["a", "1", "100", "0", "64.0", "100 / 110", "100 / 110", "105", "115", "1.50", "100", "1.00"]
    assert second[:4] == ["a", "2", "100", "7"]
    assert second[-2:] == ["190", "1.90"]


def test_scaling_is_against_the_first_point_of_the_same_backend() -> None:
    points = [
        make_point(c, rate, backend=b) for b, c, rate in [("a", 2, 100), ("a", 4, 300), ("b", 2, 10), ("b", 4, 15)]
    ]
    header, _, *body = rows(sweep_markdown(make_summary(*points), MANIFEST))
    assert header[-1] == "x c=2"
    assert [row[-1] for row in body] == ["1.00", "3.00", "1.00", "1.50"]


def test_document_says_how_to_repeat_the_run_and_where_it_ran() -> None:
    manifest = replace(MANIFEST, git=Git("0123456789abcdef", dirty=True))
    manifest = replace(manifest, host=replace(manifest.host, gpus=(Gpu("Some GPU", "80 GiB", "570.1"),)))
    summary = replace(
        SUMMARY,
        command=("ming-eval", "sweep", "--header", "X-Key: ***"),
        backends=(make_backend(header_names=("X-Key",)), make_backend("b", launched=True, model=None)),
    )
    text = sweep_markdown(summary, manifest)
    assert "```sh\nming-eval sweep --header 'X-Key: ***'\n```" in text
    assert "Server a (some-model): http://localhost:8000/v1, version 1.2, dialect vllm, headers X-Key" in text
    assert "Server b: the bundled engine" in text
    assert "commit 0123456789ab with local changes" in text
    assert "Some CPU, 2 of 8 CPUs, 16.0 GiB, Linux; GPU Some GPU 80 GiB, driver 570.1" in text
    assert "concurrencies 1,2" in text


def test_a_good_run_carries_no_warning_and_others_do() -> None:
    assert "\n> " not in sweep_markdown(SUMMARY, MANIFEST)
    interrupted = replace(SUMMARY, partial=True, verdict=Verdict("interrupted", 130, "interrupted before the end"))
    assert "> **Partial: interrupted before the end.**" in sweep_markdown(interrupted, MANIFEST)
    errors = replace(SUMMARY, verdict=Verdict("errors", 1, "7 % of the requests failed, 5 % may"))
    assert "> **7 % of the requests failed, 5 % may.**" in sweep_markdown(errors, MANIFEST)


def test_terminal_shows_the_same_rows_and_the_verdict() -> None:
    shown = sweep_text(replace(SUMMARY, partial=True, verdict=Verdict("interrupted", 130, "interrupted")))
    _, _, first, *_ = shown.splitlines()
    cells = ["a", "1", "100", "0", "64.0", "100 / 110", "100 / 110", "105", "115", "1.50", "100", "1.00"]
    assert re.split(r" {2,}", first) == cells
    assert shown.endswith("interrupted: interrupted; the figures above are partial\n")
    assert "complete" not in sweep_text(SUMMARY)
