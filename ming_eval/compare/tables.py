"""A comparison as text for the terminal and as Markdown."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from ming_eval.compare.agreement import Agreement, Parting
from ming_eval.compare.comparison import Comparison, FailureComparison, FigureComparison, PointComparison, Verdict
from ming_eval.compare.resampling import Effect
from ming_eval.report.grid import MISSING, Grid, number, percent

LEGEND = (
    "Ratio: second over first, over the same requests, with the 95 % interval of a paired bootstrap. Verdicts of "
    "single figures are under Holm's correction for looking at all of them. output_tokens_per_s: tokens over the "
    "time that requests spent in their slots, so the drain at a point's end is left out. Times in milliseconds."
)


def comparison_text(comparisons: Sequence[Comparison]) -> str:
    """For a terminal."""
    return "\n".join(_text(comparison) for comparison in comparisons)


def comparison_markdown(comparisons: Sequence[Comparison]) -> str:
    """For `summary.md`: one section per comparison, without a title of its own."""
    return "\n\n".join([*(_markdown(comparison) for comparison in comparisons), LEGEND])


def agreement_text(agreements: Sequence[Agreement]) -> str:
    """For a terminal: how often the texts agree at each load, and where some of them part."""
    return "\n".join(_agreement_text(agreement) for agreement in agreements)


def _agreement_text(agreement: Agreement) -> str:
    first, second = agreement.first, agreement.second
    lines = [f"Answers of {second} against those of {first}", "", _agreement_grid(agreement).text().rstrip()]
    for point in agreement.points:
        lines += [
            f"- {point.load} {each.id}: after {each.words} words {each.first!r} became {each.second!r}{_close(each)}"
            for each in point.partings
        ]
    lines += [f"- unlike: {difference}" for difference in agreement.differences]
    return "\n".join(lines) + "\n"


def _close(parting: Parting) -> str:
    """How close a call the first differing token was."""
    if parting.token is None:
        return ""
    gaps = f", gap {number(parting.first_gap)} / {number(parting.second_gap)}"
    return f" (token {parting.token}{gaps if parting.first_gap or parting.second_gap else ''})"


def _agreement_grid(agreement: Agreement) -> Grid:
    header = ["load", "answers", "identical", "share", "95 % interval", "words before parting (median)"]
    has_logprobs = any(point.tokens or point.median_tokens is not None for point in agreement.points)
    if has_logprobs:
        header += ["tokens before parting (median)", "gap there (median)", "difference of log p before"]
    rows = [
        [
            point.load,
            str(point.pairs),
            str(point.identical),
            percent(point.share),
            f"{percent(point.interval.low)} to {percent(point.interval.high)}",
            number(point.median_words),
            *(
                [number(point.median_tokens), number(point.median_gap), _small(point.logprob_difference)]
                if has_logprobs
                else []
            ),
        ]
        for point in agreement.points
    ]
    return Grid(header, rows)


def _small(value: float | None) -> str:
    """A difference that may be that of rounding alone."""
    return MISSING if value is None else f"{value:.2g}"


def headline(comparison: Comparison) -> str:
    """The one verdict."""
    first, second, effect = comparison.first, comparison.second, comparison.throughput
    if effect is None:
        return f"{second} against {first}: no verdict, since output tokens/s is not known at every point."
    points = "1 point" if len(comparison.points) == 1 else f"{len(comparison.points)} points"
    figures = f"{_ratio(effect.ratio)} x the output tokens/s of {first} over {points} (95 %: {_interval(effect)})"
    if comparison.verdict is None:
        return (
            f"{second} gives {figures}: no verdict, since the client was invalid in {' and '.join(comparison.invalid)}."
        )
    return f"{second} gives {figures}: {_VERDICTS[comparison.verdict]}."


DOUBTS = "The client of itself, whose limits may be in these figures:"
_VERDICTS = {Verdict.BETTER: "faster", Verdict.WORSE: "slower", Verdict.NO_DIFFERENCE: Verdict.NO_DIFFERENCE.value}


def _text(comparison: Comparison) -> str:
    lines = [headline(comparison), "", comparison_grid(comparison).text().rstrip(), ""]
    lines += [textwrap.fill(LEGEND, 100)]
    if comparison.differences:
        lines += ["", "Unlike in more than speed:", *(f"- {line}" for line in difference_lines(comparison))]
    if comparison.doubts:
        lines += ["", DOUBTS, *(f"- {line}" for line in comparison.doubts)]
    return "\n".join(lines) + "\n"


def _markdown(comparison: Comparison) -> str:
    parts = [f"**{headline(comparison)}**", comparison_grid(comparison).markdown().rstrip()]
    if comparison.differences:
        parts.append("Unlike in more than speed:\n\n" + "\n".join(f"- {line}" for line in difference_lines(comparison)))
    if comparison.doubts:
        parts.append(f"{DOUBTS}\n\n" + "\n".join(f"- {line}" for line in comparison.doubts))
    return "\n\n".join(parts)


def difference_lines(comparison: Comparison) -> list[str]:
    """In what the systems differ besides their speed, a line each."""
    return [
        f"{difference} (forbids a comparison; forced)" if difference.forbids else str(difference)
        for difference in comparison.differences
    ]


def comparison_grid(comparison: Comparison) -> Grid:
    """One row per point and figure."""
    header = ["load", "figure", comparison.first, comparison.second, "ratio", "95 % interval", "verdict"]
    return Grid(header, [row for point in comparison.points for row in _rows(point)], num_labels=2)


def _rows(point: PointComparison) -> list[list[str]]:
    rows = [_figure_row(row) for row in point.figures]
    if point.failures.only_first or point.failures.only_second or point.failures.both:
        rows.append(_failure_row(point.failures))
    return [[point.load, *row] for row in rows]


def _figure_row(row: FigureComparison) -> list[str]:
    cells = [row.figure, number(row.first), number(row.second)]
    if row.effect is None:
        return [*cells, MISSING, MISSING, MISSING]
    return [*cells, _ratio(row.effect.ratio), _interval(row.effect), _verdict(row.verdict)]


def _failure_row(row: FailureComparison) -> list[str]:
    failed = [str(row.both + row.only_first), str(row.both + row.only_second)]
    return ["failed", *failed, MISSING, MISSING, _verdict(row.verdict)]


def _verdict(verdict: Verdict | None) -> str:
    return MISSING if verdict is None else verdict.value


def _interval(effect: Effect) -> str:
    return f"{_ratio(effect.low)} to {_ratio(effect.high)}"


def _ratio(value: float) -> str:
    return f"{value:.3f}" if value < 100 else f"{value:.0f}"
