"""What a reader must know before believing a figure; computed, not written by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ming_eval.evals.item import Kind, Outcome
from ming_eval.evals.plan import Method, Plan
from ming_eval.evals.sampling import stratum_of
from ming_eval.evals.scored import Scored, count
from ming_eval.evals.similarity import PREFIX, asks_with_voice

_LEAST_PLAIN = 0.95  # share of replies that should be a bare or a marked letter


def caveats(plan: Plan, scored: Sequence[Scored], *, is_complete: bool, num_small_groups: int) -> tuple[str, ...]:
    """One sentence each."""
    return (
        *_about_the_data(plan),
        *_about_the_sample(plan, scored),
        *_about_the_media(plan, scored),
        *_about_the_voices(plan, scored),
        *_about_the_replies(plan, scored),
        *_about_the_run(scored, is_complete=is_complete),
        *_about_groups(num_small_groups),
        *(() if plan.origin.is_sample else plan.suite.suite.caveats),
    )


def _about_the_data(plan: Plan) -> Iterator[str]:
    origin = plan.origin
    if origin.is_sample:
        yield f"A bundled sample of {origin.rows} items written for this project: it is not {plan.suite.name} itself."
    elif origin.available is not None:
        shares = ", ".join(f"{name or 'all'} {have} of {want}" for name, (have, want) in origin.available.items())
        yield f"Only items whose media are there: {shares}."
    elif origin.full_rows is not None and origin.rows < origin.full_rows:
        yield f"The data holds {origin.rows} of the set's {origin.full_rows} items."
    if origin.kind == "hub" and origin.revision != plan.suite.source.revision:
        yield f"The suite file does not pin this data: repeat the run with --data {origin.name}@{origin.revision}."
    if not origin.is_sample and plan.suite.source.repo is not None:
        yield "The set is public: a model may have been trained on it."


def _about_the_sample(plan: Plan, scored: Sequence[Scored]) -> Iterator[str]:
    if plan.is_sampled:
        yield f"A sample of {plan.num_items} of {sum(plan.stratum_sizes.values())} items (seed {plan.options.seed})."
    missing = plan.stratum_sizes.keys() - {stratum_of(each.item, plan.strata) for each in scored}
    if plan.strata is not None and missing:
        yield f"{len(missing)} of {len(plan.stratum_sizes)} values of {plan.strata} are not in the sample."
    if plan.options.per_group is not None:
        yield f"Equally many items for each {plan.strata}: the plain mean estimates the macro mean of the set."


def _about_the_media(plan: Plan, scored: Sequence[Scored]) -> Iterator[str]:
    has_video = any(ref.type == "video" for each in scored for ref in each.item.media)
    if has_video and plan.protocol.media and not plan.protocol.as_frames:
        yield "Sampling of frames and resolution: server default."
    if plan.protocol.subtitles is not None:
        without = len({each.item.id for each in scored if not _exists(each)})
        yield f"{without} of {plan.num_items} items have no subtitles and were asked without the block."


def _exists(each: Scored) -> bool:
    return each.item.subtitles is not None and Path(each.item.subtitles).exists()


def _about_the_voices(plan: Plan, scored: Sequence[Scored]) -> Iterator[str]:
    if not asks_with_voice(plan):
        return
    measured = sum(any(name.startswith(PREFIX) for name in each.score.tallies) for each in scored)
    if measured:
        yield f"Similarity of speakers is a mean over {measured} of {len(scored)} replies, those whose audio is sound."
    else:
        yield "Similarity of speakers was not measured: name an encoder with --speaker-encoder."


def _about_the_replies(plan: Plan, scored: Sequence[Scored]) -> Iterator[str]:
    if plan.suite.kind is not Kind.MCQ or plan.options.method is not Method.GENERATE:
        return
    asked = [
        each for each in scored if (each.item.kind or plan.suite.kind) is Kind.MCQ
    ]  # open questions have no letter
    replies = [each for each in asked if each.score.outcome not in (Outcome.ERROR, Outcome.SKIPPED)]
    plain = sum(each.score.rule in ("bare", "marked") for each in replies)
    if replies and plain < _LEAST_PLAIN * len(replies):
        yield (
            f"Only {plain} of {len(replies)} replies are a bare letter or follow an answer cue: "
            "the figure depends on how answers are read."
        )


def _about_the_run(scored: Sequence[Scored], *, is_complete: bool) -> Iterator[str]:
    errors, skipped = count(scored, Outcome.ERROR), count(scored, Outcome.SKIPPED)
    if errors or skipped:
        yield f"{errors} errors and {skipped} skipped items count as wrong."
    if not is_complete:
        yield "Incomplete: more replies ended as errors than allowed, or the run was cut short."


def _about_groups(num_small: int) -> Iterator[str]:
    if num_small:
        yield (
            f"{num_small} groups have fewer than 30 items, too few to rank; in a table of many groups, "
            "one interval in twenty misses its true value by chance."
        )
