"""Answers that are equal, and where others part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ming_eval import manifest as manifests
from ming_eval.compare.agreement import Parting, agree_all, part, part_replies
from ming_eval.compare.system import System, load_systems
from ming_eval.errors import DataError, UsageError
from ming_eval.run_folder import Redactor, RequestLog, SavedReply
from ming_eval.types import Failure, Reply, TokenLogprob
from tests.ming_eval.compare.simulation import World, simulate

WORLD = World(concurrencies=(1, 2), num_requests=4)


def store(folder: Path, texts: dict[str, str], **changes: object) -> System:
    """A run whose answers are "one two three four" but for `texts`, by request id."""
    system = simulate(WORLD, np.random.default_rng(0))
    folder.mkdir()
    manifests.write(replace(system.manifest, run=folder.name), folder)
    with RequestLog(folder, Redactor()) as log:
        for record in system.records:
            text = texts.get(record.id, "one two three four")
            failed = {"failure": Failure.RESET} if text == "FAILED" else {}
            log.add(Reply(replace(record, **failed), text))  # type: ignore[arg-type]
    (found,) = load_systems([folder])
    return replace(found, label=folder.name)


@pytest.mark.parametrize(
    ("second", "parting"),
    [
        ("one two three four", None),
        ("one two thirty", Parting("q", 2, 10, "ree four", "irty")),
        ("one two", Parting("q", 1, 7, " three four", "")),
        ("", Parting("q", 0, 0, "one two three four", "")),
        ("一二三", Parting("q", 0, 0, "one two three four", "一二三")),
    ],
)
def test_where_texts_part(second: str, parting: Parting | None) -> None:
    assert part("q", "one two three four", second) == parting


def test_how_close_a_call_the_first_differing_token_was() -> None:
    """`b` was 0.1 behind `a` for the first system and 0.3 in front of it for the second; a third never saw it."""

    def saved(text: str, *tokens: TokenLogprob) -> SavedReply:
        return SavedReply("q", "stop", text, "", tokens)

    same = TokenLogprob("x ", -0.5)
    first = saved("x a", same, TokenLogprob("a", -1.0, (("a", -1.0), ("b", -1.1))))
    second = saved("x b", TokenLogprob("x ", -0.6), TokenLogprob("b", -0.9, (("b", -0.9), ("a", -1.2))))
    found = part_replies("q", first, second)
    assert found is not None
    assert (found.token, found.words, found.chars) == (1, 1, 2)
    assert (found.first_gap, found.second_gap) == (pytest.approx(0.1), pytest.approx(0.3))
    blind = part_replies("q", first, saved("x c", same, TokenLogprob("c", -0.1)))
    assert blind is not None
    assert (blind.token, blind.first_gap, blind.second_gap) == (1, None, None)
    ended = part_replies("q", first, saved("x ", same))
    assert ended is not None
    assert (ended.token, ended.first_gap) == (1, None)
    assert part_replies("q", first, first) is None


def test_share_of_equal_answers_by_load(tmp_path: Path) -> None:
    """At c=1 two of four answers differ, after 2 and 3 words; at c=2 one request failed and the rest are equal."""
    first = store(tmp_path / "a", {})
    second = store(tmp_path / "b", {"c1-0": "one two 3", "c1-3": "one two three 4", "c2-1": "FAILED"})
    (found,) = agree_all([first, second])
    assert [(point.load, point.pairs, point.identical) for point in found.points] == [("c=1", 4, 2), ("c=2", 3, 3)]
    low, high = found.points
    assert (low.share, low.median_words, high.share, high.median_words) == (0.5, 2.5, 1.0, None)
    assert low.interval.low == pytest.approx(0.150, abs=1e-3)
    assert [parting.id for parting in low.partings] == ["c1-0", "c1-3"]


def test_other_prompts_are_refused(tmp_path: Path) -> None:
    first, second = store(tmp_path / "a", {}), store(tmp_path / "b", {})
    other = replace(second, manifest=replace(second.manifest, settings={**second.manifest.settings, "seed": 3}))
    with pytest.raises(DataError, match="seed: 0 against 3"):
        agree_all([first, other])
    (found,) = agree_all([first, other], force=True)
    assert [difference.what for difference in found.differences] == ["seed"]


def test_runs_without_answers_are_an_error(tmp_path: Path) -> None:
    first, second = store(tmp_path / "a", {}), store(tmp_path / "b", {})
    for path in (tmp_path / "b" / "outputs").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="no stored answers"):
        agree_all([first, second])


def test_one_system_cannot_agree(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="two systems"):
        agree_all([store(tmp_path / "a", {})])
