"""Figures of a suite from scores that are set by hand."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ming_eval.accuracy_results import DataOrigin
from ming_eval.errors import UsageError
from ming_eval.evals.data import DataOptions
from ming_eval.evals.item import Item, Kind
from ming_eval.evals.plan import AskOptions, Method, make_plan
from ming_eval.evals.scored import score_all
from ming_eval.evals.suite import Published, Sampling, Scoring, Suite, find_suite
from ming_eval.evals.summarise import Conduct, summarise
from tests.ming_eval.evals.builders import (
    MCQ_SUITE,
    answered,
    lines,
    make_item,
    mcq_plan,
    result,
    with_items,
    write_rows,
    write_suite,
)


def test_the_figures_of_the_reference_run(tmp_path: Path) -> None:
    """225 of 285 right, five in each of 57 subjects: 78.9 % [73.8, 83.3]."""
    items = [make_item(id=f"q{i}", group={"shelf": f"s{i % 57}"}) for i in range(285)]
    found = result(with_items(mcq_plan(tmp_path, 1), items), ["C"] * 225 + ["A"] * 60)
    percent = [f"{100 * value:.1f}" for value in (found.accuracy, found.ci_low, found.ci_high)]
    assert percent == ["78.9", "73.8", "83.3"]
    assert found.macro is not None
    assert found.macro.value == pytest.approx(225 / 285)  # equal allocation: the plain mean is a macro mean
    assert (found.interval, found.metric, found.value) == ("Wilson", "accuracy", found.accuracy)


def test_macro_micro_and_weighted_by_hand(tmp_path: Path) -> None:
    """Two of two right in a stratum of 90, one of four in a stratum of 10."""
    items = [make_item(id=f"q{i}", group={"shelf": "big" if i < 2 else "small"}) for i in range(6)]
    found = result(with_items(mcq_plan(tmp_path, 1), items, big=90, small=10), ["C", "C", "C", "A", "A", "A"])
    assert found.accuracy == 3 / 6
    assert found.macro is not None
    assert found.macro.value == pytest.approx((1.0 + 0.25) / 2)
    assert found.weighted is not None
    assert found.weighted.value == pytest.approx(0.9 * 1.0 + 0.1 * 0.25)


def test_a_full_set_has_no_weighted_estimate(tmp_path: Path) -> None:
    assert result(mcq_plan(tmp_path, 4), ["A", "B", "C", "D"]).weighted is None


def test_groups_are_sorted_worst_first_and_small_ones_marked(tmp_path: Path) -> None:
    shelves = ["a"] * 30 + ["b"] * 2 + ["c"] * 3
    items = [make_item(id=f"q{i}", group={"shelf": shelf}) for i, shelf in enumerate(shelves)]
    texts = ["C"] * 29 + ["A"] + ["C"] * 2 + ["A", "A", "C"]
    rows = result(with_items(mcq_plan(tmp_path, 1), items), texts).groups["shelf"]
    assert [(row.name, row.correct, row.total, row.too_small) for row in rows] == [
        ("c", 1, 3, True),
        ("a", 29, 30, False),
        ("b", 2, 2, True),
    ]
    assert (round(rows[1].low, 3), round(rows[1].high, 3)) == (0.833, 0.994)


def test_clusters_widen_the_interval_and_are_counted(tmp_path: Path) -> None:
    plan = mcq_plan(tmp_path, 1)
    apart = [make_item(id=f"q{i}", group={"shelf": "s"}) for i in range(120)]
    together = [replace(item, cluster=f"v{i // 3}") for i, item in enumerate(apart)]
    texts = ["C" if i // 3 % 2 else "A" for i in range(120)]
    alone, clustered = result(with_items(plan, apart), texts), result(with_items(plan, together), texts)
    assert (alone.clusters, clustered.clusters, clustered.interval) == (None, 40, "cluster-robust")
    assert clustered.ci_high - clustered.ci_low > 1.5 * (alone.ci_high - alone.ci_low)
    noted = [any("Intervals of groups take items" in each for each in found.caveats) for found in (alone, clustered)]
    assert noted == [False, True]


def test_clusters_widen_the_interval_of_the_macro_mean(tmp_path: Path) -> None:
    """All three questions about a video are right or wrong together: worth a third of as many independent ones."""
    plan = mcq_plan(tmp_path, 1)
    apart = [make_item(id=f"q{i}", group={"shelf": f"s{i % 2}"}) for i in range(240)]
    together = [replace(item, cluster=f"v{i // 6}{i % 2}") for i, item in enumerate(apart)]
    texts = ["C" if i // 6 % 2 else "A" for i in range(240)]
    alone, clustered = (result(with_items(plan, items), texts).macro for items in (apart, together))
    assert alone is not None
    assert clustered is not None
    assert clustered.standard_error == pytest.approx(sqrt(3) * alone.standard_error, rel=0.02)


def test_items_with_and_without_subtitles_are_a_table(tmp_path: Path) -> None:
    plan = mcq_plan(tmp_path, 1)
    (tmp_path / "a.srt").write_text("1\n00:00:00,000 --> 00:00:09,000\nHello\n")
    files = ("a.srt", "a.srt", "b.srt")
    items = [make_item(id=f"q{i}", subtitles=str(tmp_path / name)) for i, name in enumerate(files)]
    plain = with_items(plan, items)
    shown = replace(plain, protocol=_changed(plan.protocol, subtitles="full"))
    assert "subtitles" not in result(plain, ["C", "A", "C"]).groups
    rows = result(shown, ["C", "A", "C"]).groups["subtitles"]
    assert [(row.name, row.correct, row.total) for row in rows] == [("with", 1, 2), ("without", 1, 1)]


def test_what_the_protocol_sets_is_in_the_result(tmp_path: Path) -> None:
    plan = mcq_plan(tmp_path, 1)
    assert result(plan, ["A"]).protocol_settings == {}
    protocol = _changed(plan.protocol, frames=8, as_frames=True, extra={"reasoning_effort": "none"})
    found = result(replace(plan, protocol=protocol), ["A"]).protocol_settings
    assert found == {"frames": 8, "as_frames": True, "extra": {"reasoning_effort": "none"}}


def test_references_without_a_word_are_left_out_and_counted(tmp_path: Path) -> None:
    suite = write_suite(tmp_path / "said", MCQ_SUITE.replace('kind = "mcq"', 'kind = "transcript"'))
    rows = [{"id": f"u{i}", "question": "", "answer": text} for i, text in enumerate(["one", "...", "(laughs)"])]
    data = DataOptions(str(write_rows(tmp_path / "said.jsonl", rows)))
    found = result(make_plan(suite, AskOptions(data=data)), ["one"])
    assert found.planned == 1
    assert "Left out: 2 items whose reference has no word after normalisation." in found.caveats


def test_letters_and_the_majority_baseline(tmp_path: Path) -> None:
    items = [make_item(id=f"q{i}", answer=answer) for i, answer in enumerate([0, 2, 2, 3])]
    found = result(with_items(mcq_plan(tmp_path, 1), items), ["A", "A", "C", "hm"])
    assert (found.predicted, found.gold, found.majority_accuracy) == ({"A": 2, "C": 1}, {"A": 1, "C": 2, "D": 1}, 0.5)


def test_what_was_not_sent_is_skipped(tmp_path: Path) -> None:
    found = result(mcq_plan(tmp_path, 4), ["A", None, "C", None])
    assert (found.planned, found.correct, found.skipped, found.complete) == (4, 2, 2, False)
    assert (found.possible_low, found.possible_high) == (0.5, 1.0)
    assert found.requests == 2
    assert found.requests_per_s == 1.0


def test_word_error_rate_is_a_ratio_of_sums(tmp_path: Path) -> None:
    plan = mcq_plan(tmp_path, 1)
    suite = _with(plan.suite, kind=Kind.TRANSCRIPT, score=Scoring(metric="wer", normaliser="plain"))
    items = [
        Item("u0", "", "one two three four five six seven eight", cluster="x"),
        Item("u1", "", "nine ten", cluster="y"),
        Item("u2", "", "eleven twelve", cluster="y"),
    ]
    found = result(with_items(plan, items, suite), ["one two three four five six seven eight", "nine", None])
    assert (found.metric, found.lower_is_better) == ("wer", True)
    assert found.value == pytest.approx(3 / 12)  # what is missing was all deleted
    assert found.value_per_item == pytest.approx((0 + 0.5 + 1) / 3)
    assert found.other_metrics == {"high": pytest.approx(1 / 3)}
    assert found.value_interval == "cluster bootstrap"
    assert "Only 2 independent items or clusters: a bootstrap over so few is too narrow." in found.caveats


def test_published_figures_need_their_differences(tmp_path: Path) -> None:
    plan = mcq_plan(tmp_path, 1)
    figures = (
        Published(
            model="other", metric="accuracy", value=0.9, source="a report", protocol="cot", differences=("5-shot",)
        ),
        Published(model="third", metric="accuracy", value=0.8, source="a poster"),
    )
    plan = with_items(plan, [make_item()], _with(plan.suite, published=figures))
    (other,) = result(plan, ["C"]).published
    assert (other.model, other.differences) == ("other", ("5-shot", "protocol cot, here letter"))
    sample = replace(plan, origin=DataOrigin("sample", "x", None, 1, None, "d"))
    assert result(sample, ["C"]).published == ()  # a sample is another set


def test_texts_of_a_restricted_set_are_not_written(tmp_path: Path) -> None:
    plan = mcq_plan(tmp_path, 1)
    suite = _with(plan.suite, kind=Kind.TEXT)
    plan = with_items(plan, [Item("t", "secret question", "secret answer")], suite)
    assert lines(plan, ["x"])[0].gold == "secret answer"
    restricted = _changed(plan.suite, suite=_changed(plan.suite.suite, redistribute=False))
    assert lines(replace(plan, suite=restricted), ["x"])[0].gold is None


@pytest.mark.parametrize(
    ("origin", "sentence"),
    [
        (DataOrigin("sample", "x", None, 4, None, "d"), "not fruit itself"),
        (DataOrigin("file", "x", None, 4, 9, "d"), "4 items, and fruit has 9: not the full set"),
        (DataOrigin("hub", "x/y", "1a2b", 4, None, "d"), "--data x/y@1a2b"),
        (
            DataOrigin("file", "x", None, 4, None, "feed"),
            "pins no revision of its data: runs compare only on the digest feed",
        ),
    ],
)
def test_caveats_about_the_data(tmp_path: Path, origin: DataOrigin, sentence: str) -> None:
    plan = replace(mcq_plan(tmp_path, 4), origin=origin)
    assert any(sentence in caveat for caveat in result(plan, ["A", "B", "C", "D"]).caveats)


def test_a_caveat_when_few_replies_are_plain_letters(tmp_path: Path) -> None:
    plan = mcq_plan(tmp_path, 4)
    plain = result(plan, ["A", "B", "Answer: C", "D"]).caveats
    assert not any("bare letter" in caveat for caveat in plain)
    items = [make_item(id=f"q{i}", kind=Kind.TEXT, choices=(), answer="7") for i in range(4)]
    open_ones = result(with_items(plan, items), ["7", "7", "7", "8"]).caveats
    assert not any("bare letter" in caveat for caveat in open_ones)
    wordy = result(plan, ["A", "B", "C. Berries", "Nuts"]).caveats
    assert any("Only 2 of 4 replies are a bare letter" in caveat for caveat in wordy)


def test_a_caveat_when_replies_were_cut_while_the_model_reasoned(tmp_path: Path) -> None:
    """A model that reasons has 16 tokens for a letter: no answer is wrong, and the accuracy is 0."""
    plan = mcq_plan(tmp_path, 4)
    replies = {
        key: replace(each, finish_reason="length", text=text, reasoning=reasoning)
        for (key, each), (text, reasoning) in zip(
            answered(plan, ["A"] * 4).items(),
            [("", "Well, "), ("<think>Well, ", ""), ("The", ""), ("A", "")],
            strict=True,
        )
    }
    said = summarise(plan, score_all(plan, replies), Conduct("s", "m", 2.0, 0, 0.05)).caveats
    assert any("4 of 4 replies ended at the limit of" in each for each in said)
    assert any(each.startswith("2 of them were still reasoning") and "enable_thinking" in each for each in said)
    assert not any("ended at the limit" in each for each in result(plan, ["A", "B", "C", "D"]).caveats)


def test_length_and_further_fields_are_part_of_the_protocol(tmp_path: Path) -> None:
    plain, longer, other = (
        mcq_plan(tmp_path, 4),
        mcq_plan(tmp_path, 4, max_tokens=2048),
        mcq_plan(tmp_path, 4, extra={"top_k": 1}),
    )
    assert (longer.protocol.max_tokens, other.protocol.extra) == (2048, {"top_k": 1})
    assert len({each.protocol_hash for each in (plain, longer, other)}) == 3
    assert len({each.asked_hash for each in (plain, longer, other)}) == 3
    with pytest.raises(UsageError, match="--max-tokens is for answers"):
        mcq_plan(tmp_path, 4, max_tokens=20, method=Method.LOGLIKELIHOOD)
    with pytest.raises(UsageError, match="suite seed-tts has texts spoken"):  # /v1/audio/speech is sent no limit
        make_plan(find_suite("seed-tts"), AskOptions(judge="whisper", max_tokens=20))


def _with(suite: Suite, **changes: Any) -> Suite:
    if "kind" in changes:
        kind = changes.pop("kind")
        changes.setdefault("suite", _changed(suite.suite, kind=kind))
    changes.setdefault("sampling", Sampling())
    return _changed(suite, **changes)


def _changed(struct: Any, **changes: Any) -> Any:
    return msgspec.structs.replace(struct, **changes)
