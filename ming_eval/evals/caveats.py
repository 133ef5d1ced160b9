"""What a reader must know before believing a figure; computed, not written by hand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ming_eval.evals.item import Kind, Outcome, Reason
from ming_eval.evals.judging import fault_of
from ming_eval.evals.plan import Method, Plan
from ming_eval.evals.responses import Response
from ming_eval.evals.sampling import stratum_of
from ming_eval.evals.scored import RATE_KINDS, Scored, clusters, count, has_subtitles
from ming_eval.evals.similarity import PREFIX, asks_with_voice

_MOST_CHARS = 300  # of an error message
_FEW_UNITS = 15
_FEW_CUT = 0.05  # share of replies that the token limit may end without a word
_LEAST_PLAIN = 0.95  # share of replies that should be a bare or a marked letter


def caveats(plan: Plan, scored: Sequence[Scored], *, is_complete: bool, num_small_groups: int) -> tuple[str, ...]:
    """One sentence each."""
    return (
        *_about_the_data(plan),
        *_about_the_sample(plan, scored),
        *_about_the_media(plan, scored),
        *_about_the_voices(plan, scored),
        *_about_their_length(plan, scored),
        *_about_the_replies(plan, scored),
        *_about_the_run(plan, scored, is_complete=is_complete),
        *_about_the_interval(plan, scored),
        *_about_groups(plan, scored, num_small_groups),
        *(() if plan.origin.is_sample else plan.suite.suite.caveats),
    )


def _about_the_data(plan: Plan) -> Iterator[str]:
    origin = plan.origin
    if origin.is_sample:
        yield f"A bundled sample of {origin.rows} items written for this project: it is not {plan.suite.name} itself."
    elif origin.available is not None:
        shares = ", ".join(f"{name or 'all'} {have} of {want}" for name, (have, want) in origin.available.items())
        yield f"Only items whose media are there: {shares}."
    elif origin.full_rows is not None and origin.rows != origin.full_rows:
        yield f"The data holds {origin.rows} items, and {plan.suite.name} has {origin.full_rows}: not the full set."
    if not origin.is_sample and plan.suite.source.revision is None:
        yield f"The suite file pins no revision of its data: runs compare only on the digest {origin.digest[:16]}."
    if origin.kind == "hub" and origin.revision != plan.suite.source.revision:
        yield f"The suite file does not pin this data: repeat the run with --data {origin.name}@{origin.revision}."
    if plan.num_without_reference:
        yield f"Left out: {plan.num_without_reference} items whose reference has no word after normalisation."
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
    if has_video and plan.protocol.media and plan.protocol.as_frames:
        height = plan.protocol.frame_height
        size = "in full size" if height is None else f"at most {height} pixels high"
        yield f"A video is {plan.protocol.frames} JPEG images at the centres of as many equal slices, {size}."
    if plan.protocol.subtitles is not None:
        without = len({each.item.id for each in scored if not has_subtitles(each.item)})
        yield f"{without} of {plan.num_items} items have no subtitles and were asked without the block."


def _about_the_voices(plan: Plan, scored: Sequence[Scored]) -> Iterator[str]:
    if not asks_with_voice(plan):
        return
    measured = sum(any(name.startswith(PREFIX) for name in each.score.tallies) for each in scored)
    if measured:
        yield f"Similarity of speakers is a mean over {measured} of {len(scored)} replies, those whose audio is sound."
    else:
        yield "Similarity of speakers was not measured: name an encoder with --speaker-encoder."


_NO_THINKING = """--extra-body '{"chat_template_kwargs": {"enable_thinking": false}}'"""


def _about_their_length(plan: Plan, scored: Sequence[Scored]) -> Iterator[str]:
    """A model that reasons first may use up all tokens before it answers: then the limit is wrong, not the answers."""
    replies = [each.response for each in scored if each.response is not None and each.response.failure is None]
    cut = [reply for reply in replies if reply.finish_reason == "length"]
    if not cut or len(cut) < _FEW_CUT * len(replies):
        return
    limit = plan.protocol.max_tokens
    yield f"{len(cut)} of {len(replies)} replies ended at the limit of {limit} tokens (--max-tokens)."
    if thinking := sum(map(_is_thinking, cut)):
        yield (
            f"{thinking} of them were still reasoning, without an answer: allow more with --max-tokens, or leave the "
            f"reasoning out where the model can, as by {_NO_THINKING}."
        )


def _is_thinking(reply: Response) -> bool:
    """True where the reasoning has no end, be it told apart by the server or part of the text."""
    is_open = "<think>" in reply.text and "</think>" not in reply.text
    return is_open or (bool(reply.reasoning) and not reply.text.strip())


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


def _about_the_run(plan: Plan, scored: Sequence[Scored], *, is_complete: bool) -> Iterator[str]:
    errors, skipped = count(scored, Outcome.ERROR), count(scored, Outcome.SKIPPED)
    if errors or skipped:
        if plan.suite.kind in RATE_KINDS:
            yield f"{errors} errors and {skipped} skipped items count as if every word of them were lost."
        else:
            right = count(scored, Outcome.CORRECT)
            low, high = (f"{100 * each / len(scored):.1f} %" for each in (right, right + errors + skipped))
            lost = f"{errors} errors and {skipped} skipped items"
            yield f"{lost} count as wrong: the accuracy lies between {low} and {high}."
    yield from _first_of_each_failure(scored)
    if not is_complete:
        yield "Incomplete: more errors or skipped items than allowed, or the run was cut short."


def _first_of_each_failure(scored: Sequence[Scored]) -> Iterator[str]:
    """What the server said, or what was missing, where a reply ended as an error or was skipped: one example each."""
    shown = set()
    for each in scored:
        reason, response = each.score.reason, each.response
        if each.score.outcome not in (Outcome.ERROR, Outcome.SKIPPED) or response is None or reason in shown:
            continue
        shown.add(reason)
        said = response.attempts[-1].error if response.attempts else None
        detail = response.missing or (fault_of(each.item, response) if reason == Reason.AUDIO else said)
        if detail is not None:
            yield f"The first {reason}, of item {each.item.id}: {' '.join(detail.split())[:_MOST_CHARS]}"


def _about_the_interval(plan: Plan, scored: Sequence[Scored]) -> Iterator[str]:
    """A bootstrap of few is too narrow: of ten clusters of unlike difficulty it holds the mean in 88 % of all cases."""
    keys = clusters(scored)
    if keys is None and plan.suite.kind not in RATE_KINDS:
        return
    units = len(scored) if keys is None else len(set(keys))
    if units < _FEW_UNITS:
        yield f"Only {units} independent items or clusters: a bootstrap over so few is too narrow."


def _about_groups(plan: Plan, scored: Sequence[Scored], num_small: int) -> Iterator[str]:
    has_clusters = any(each.item.cluster is not None and each.item.group for each in scored)
    if has_clusters and plan.suite.kind not in RATE_KINDS:
        yield "Intervals of groups take items as independent: those of one source are not, so that they are too narrow."
    if num_small:
        yield (
            f"{num_small} groups have fewer than 30 items, too few to rank; in a table of many groups, "
            "one interval in twenty misses its true value by chance."
        )
