"""Two runs of a suite, item by item, with replies set by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ming_eval.accuracy_results import ItemResult, SuiteResult
from ming_eval.compare.accuracy import AccuracyComparison, Test, compare_suites, with_verdicts
from ming_eval.compare.accuracy_gate import AccuracyCondition, accuracy_crossings
from ming_eval.compare.accuracy_tables import comparison_markdown, comparison_text, group_note, headline
from ming_eval.compare.comparison import Verdict
from ming_eval.errors import DataError, UsageError
from ming_eval.evals.plan import Plan
from ming_eval.metrics.paired import Cells, holm, mcnemar
from tests.ming_eval.evals.builders import lines, make_item, mcq_plan, result, with_items

#         q0   q1   q2   q3   q4   q5   q6   q7     gold A B C D A B C D
FIRST: list[str | None] = ["A", "B", "C", "D", "A", "B", "A", "A"]  # 6 right
SECOND: list[str | None] = ["A", "B", "A", "A", "B", None, "C", "A"]  # q0 q1 q6 right
SILENT: list[str | None] = [None] * 8


def compared(plan: Plan, first: list[str | None], second: list[str | None], **options: bool) -> AccuracyComparison:
    return compare_suites(
        result(plan, first, backend="x"),
        lines(plan, first, "x"),
        result(plan, second, backend="y"),
        lines(plan, second, "y"),
        **options,
    )


def test_two_runs_by_hand_count(tmp_path: Path) -> None:
    found = compared(mcq_plan(tmp_path, 8, shelves=2), FIRST, SECOND)
    assert found.cells == Cells(both=2, only_first=4, only_second=1, neither=1)
    assert (found.first_value, found.second_value) == (6 / 8, 3 / 8)
    assert found.difference.value == pytest.approx(-3 / 8)
    assert found.test is Test.MCNEMAR
    assert found.p == found.mcnemar_p == pytest.approx(2 * (1 + 5) / 32)
    assert found.bootstrap.value == found.difference.value
    assert found.same_answers == pytest.approx(3 / 8)  # q0 q1 and, wrong in both, q7
    assert (found.num_unmatched, found.forbidden) == (0, ())
    by_name = {group.name: group for group in found.groups}
    assert by_name["s0"].cells == Cells(1, 2, 1, 0)  # q0 q2 q4 q6
    assert by_name["s1"].cells == Cells(1, 2, 0, 1)  # q1 q3 q5 q7
    assert (by_name["s1"].first, by_name["s1"].second) == (0.75, 0.25)
    assert by_name["s1"].p == pytest.approx(0.5)
    assert by_name["s1"].p_adjusted == 1.0


def test_items_that_only_one_run_has_are_counted(tmp_path: Path) -> None:
    plan = mcq_plan(tmp_path, 4)
    texts = ["A", "B", "C", "D"]
    suite = result(plan, texts)
    assert compare_suites(suite, lines(plan, texts), suite, lines(plan, texts)[1:]).num_unmatched == 1
    with pytest.raises(DataError, match="share no item"):
        compare_suites(suite, lines(plan, texts), suite, [])


def test_other_protocols_compare_only_when_forced(tmp_path: Path) -> None:
    plan, other = mcq_plan(tmp_path / "a", 4), mcq_plan(tmp_path / "b", 4, protocol="cot")
    texts = ["A", "B", "C", "D"]
    arguments = (result(plan, texts), lines(plan, texts), result(other, texts), lines(other, texts))
    with pytest.raises(DataError, match="protocol 'letter' and 'cot'"):
        compare_suites(*arguments)
    forced = compare_suites(*arguments, force=True)
    assert forced.cells == Cells(4, 0, 0, 0)
    assert len(forced.forbidden) == 3  # protocol, prompt, max_tokens
    assert "protocol 'letter' and 'cot' (forbids a comparison; forced)" in comparison_text([forced])


def test_clusters_decide_by_their_number_not_by_that_of_their_questions(tmp_path: Path) -> None:
    """Twenty questions of two videos: all of one video lost. McNemar's test would call that certain."""
    items = [make_item(id=f"q{i}", answer=2, cluster=f"v{i // 10}") for i in range(20)]
    plan = with_items(mcq_plan(tmp_path, 1), items)
    found = compared(plan, ["C"] * 20, ["C"] * 10 + ["A"] * 10)
    assert found.test is Test.PAIRED_T
    assert found.mcnemar_p < 0.01
    assert found.p == pytest.approx(0.5)  # two clusters with gaps 0 and 1: t = 1 with one degree of freedom
    assert with_verdicts([found])[0].verdict is Verdict.NO_DIFFERENCE


def test_error_rates_are_compared_as_sums_over_sums(tmp_path: Path) -> None:
    plan = mcq_plan(tmp_path, 40)
    texts = ["A"] * 40

    def run(backend: str, errors: list[float]) -> tuple[SuiteResult, list[ItemResult]]:
        suite = replace(
            result(plan, texts, backend=backend), kind="transcript", metric="wer", lower_is_better=True, model=backend
        )
        items = lines(plan, texts, backend)
        tallies = [{"errors": (wrong, 10.0 * (1 + i % 2))} for i, wrong in enumerate(errors)]
        return suite, [replace(item, tallies=each) for item, each in zip(items, tallies, strict=True)]

    found = compare_suites(*run("x", [1.0] * 40), *run("y", [3.0] * 40))
    assert (found.first_value, found.second_value) == (40 / 600, 120 / 600)
    assert (found.test, found.paired) == (Test.BOOTSTRAP, None)
    assert found.difference.value == pytest.approx(80 / 600)
    (judged,) = with_verdicts([found])
    assert judged.verdict is Verdict.WORSE
    assert judged.notes == ("model: x against y",)
    without = [replace(item, tallies={}) for item in run("x", [1.0] * 40)[1]]
    with pytest.raises(DataError, match="rescore"):
        compare_suites(run("x", [1.0] * 40)[0], without, *run("y", [3.0] * 40))


def test_looking_at_many_suites_is_corrected_for(tmp_path: Path) -> None:
    plan = mcq_plan(tmp_path, 8)
    gold = ["A", "B", "C", "D"] * 2
    six_lost = compared(plan, gold, ["B", "A", "A", "A", "B", "A", "C", "D"])
    assert six_lost.p == pytest.approx(2 / 64)
    alone = with_verdicts([six_lost])[0]
    assert (alone.verdict, alone.p_adjusted) == (Verdict.WORSE, pytest.approx(2 / 64))
    among = with_verdicts([six_lost, compared(plan, gold, gold), compared(plan, gold, gold)])[0]
    assert (among.verdict, among.p_adjusted) == (Verdict.NO_DIFFERENCE, pytest.approx(6 / 64))


def test_the_text_names_verdict_cells_and_the_least_likely_groups(tmp_path: Path) -> None:
    plan = mcq_plan(tmp_path, 48, shelves=12)
    gold = [GOLD[i % 4] for i in range(48)]
    second = [GOLD[(i + (i % 12 == 3)) % 4] for i in range(48)]  # shelf s3 is lost
    (found,) = with_verdicts([compared(plan, gold, second)])
    assert headline(found) == (
        "y against x on fruit: accuracy 100.0 % -> 91.7 %, -8.3 points (95 %: -16.4 to -0.2; exact McNemar, p 0.12): "
        "no difference shown."
    )
    text = comparison_text([found])
    row = next(line.split() for line in text.splitlines() if line.startswith("s3 "))
    assert row[-2:] == [f"{mcnemar(Cells(0, 4, 0, 0)):.2g}", "1"]
    assert holm([mcnemar(Cells(0, 4, 0, 0)), *[1.0] * 11])[0] == 1.0
    assert "12 values of shelf" in group_note(found, "shelf")
    assert "2 more" in group_note(found, "shelf")
    assert "### fruit, y against x by shelf" in comparison_markdown([found])


GOLD = "ABCD"


@pytest.mark.parametrize(
    ("condition", "crossed"),
    [
        ("accuracy<-2pt", [False]),  # crossed, and chance explains it
        ("accuracy<-40pt", []),
        ("fruit:accuracy<0.5", [True]),
        ("accuracy>0.5", []),
    ],
)
def test_a_gate_on_accuracy(tmp_path: Path, condition: str, crossed: list[bool]) -> None:
    found = compared(mcq_plan(tmp_path, 8), FIRST, SECOND)
    crossings = accuracy_crossings([AccuracyCondition.parse(condition)], [found])
    assert [each.is_shown for each in crossings] == crossed


def test_a_gate_that_cannot_be_judged_does_not_pass(tmp_path: Path) -> None:
    found = compared(mcq_plan(tmp_path, 8), FIRST, SECOND)
    for condition in ("wer>+1pt", "other:accuracy<0.5"):
        with pytest.raises(DataError, match="they have fruit:accuracy"):
            accuracy_crossings([AccuracyCondition.parse(condition)], [found])
    for bad in ("accuracy", "accuracy<-2%", "accuracy<2pt"):
        with pytest.raises(UsageError, match="METRIC<-2pt"):
            AccuracyCondition.parse(bad)


@pytest.mark.parametrize("is_first", [True, False])
def test_of_a_server_that_gave_no_reply_nothing_follows(tmp_path: Path, is_first: bool) -> None:
    """Neither that the other is better, nor that it passes."""
    runs = (SILENT, FIRST) if is_first else (FIRST, SILENT)
    found = compared(mcq_plan(tmp_path, 8, shelves=2), *runs)
    (judged,) = with_verdicts([found])
    assert (judged.silent, judged.verdict, judged.p_adjusted) == (("x" if is_first else "y",), None, None)
    assert headline(judged).endswith(f"no verdict, since {judged.silent[0]} gave no reply.")
    with pytest.raises(DataError, match="gave no reply to fruit, so the gate cannot be judged"):
        accuracy_crossings([AccuracyCondition.parse("accuracy<-2pt")], [judged])
