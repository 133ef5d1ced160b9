"""A stored response -> what it is worth; a pure function, so that a run can be scored again without a server."""

from __future__ import annotations

from ming_eval.evals.item import Item, Outcome, Reason, Reply, Score, judged, unparsed
from ming_eval.evals.plan import Plan, Sample
from ming_eval.evals.prompt import letters_of
from ming_eval.evals.responses import Response
from ming_eval.evals.scoring.score import score, without_reply
from ming_eval.evals.scoring.speech import Spoken, audio_fault


def judge(plan: Plan, sample: Sample, response: Response | None) -> Score:
    """The score of a sample; one without a response was not sent."""
    if response is None:
        return _unanswered(plan, sample, Outcome.SKIPPED, Reason.NOT_SENT)
    if response.missing is not None:
        return _unanswered(plan, sample, Outcome.SKIPPED, Reason.MEDIA_MISSING)
    if response.failure is not None:
        return _unanswered(plan, sample, Outcome.ERROR, response.failure)
    if response.choice_logprobs is not None:
        return _most_likely(sample, response.choice_logprobs)
    reply = Reply(response.text, response.finish_reason, response.transcript)
    return score(sample.item, reply, plan.suite.kind, plan.suite.score, _spoken(response))


def is_final(outcome: Score) -> bool:
    """True for an answer that is not asked for again when a run goes on: anything but errors and empty replies."""
    return outcome.outcome not in (Outcome.ERROR, Outcome.SKIPPED) and outcome.reason != Reason.EMPTY


def fault_of(item: Item, response: Response) -> str | None:
    """What is wrong with a reply's audio, None when nothing is."""
    return audio_fault(_spoken(response), item.gold_texts[0])


def _spoken(response: Response) -> Spoken:
    return Spoken(response.audio_s, response.sample_rate_hz, response.announced_rate_hz)


def _unanswered(plan: Plan, sample: Sample, outcome: Outcome, reason: str) -> Score:
    return without_reply(sample.item, outcome, reason, plan.suite.kind, plan.suite.score)


def _most_likely(sample: Sample, logprobs: tuple[float, ...]) -> Score:
    best = max(logprobs)
    if logprobs.count(best) > 1:
        return unparsed(Reason.AMBIGUOUS)
    choice = logprobs.index(best)
    return judged(choice == sample.item.answer, "loglikelihood", letters_of(sample.item)[choice])
