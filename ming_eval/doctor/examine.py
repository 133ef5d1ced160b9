"""All looks at one server, one after the other, within a fixed time."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from ming_eval.client import probe
from ming_eval.coverage.cases import CaseSet
from ming_eval.doctor import media_checks, text_checks
from ming_eval.doctor.asking import OutOfTimeError, Questioner
from ming_eval.doctor.diagnosis import Diagnosis, Finding, Status
from ming_eval.doctor.guessing import guess_dialect
from ming_eval.errors import TargetError
from ming_eval.metrics.prometheus import parse_sample
from ming_eval.targets import Target, find_dialect

Say = Callable[[str], None]


async def examine(
    target: Target, cases: CaseSet, *, is_dialect_given: bool, limit_s: float, total_s: float, say: Say
) -> Diagnosis:
    """Everything about one server: within `limit_s` for each question and `total_s` for all, in seconds.

    Raises:
        TargetError: nobody listens.
    """
    questioner = Questioner(target, limit_s, time.monotonic() + total_s)
    cards, findings = await _models(questioner)
    name, reason = target.dialect.name, "as given"
    if not is_dialect_given:
        name, reason = await _in_time(guess_dialect(questioner, cards), (name, "no time was left to look"))
    model = target.model or (str(cards[0]["id"]) if cards else None)
    settled = replace(target, dialect=find_dialect(name), model=model)
    patient = _Patient(replace(questioner, target=settled), list(findings), say)
    await patient.look_at_all(cases)
    return Diagnosis(
        url=settled.request_url,
        dialect=name,
        dialect_reason=reason,
        model=model,
        models=tuple(str(card["id"]) for card in cards),
        findings=tuple(patient.findings),
        can_be_measured=patient.can_be_measured,
    )


async def _models(questioner: Questioner) -> tuple[list[dict[str, Any]], tuple[Finding, ...]]:
    """Model cards; a server without a list of models is no reason to stop, one that is not there is."""
    page = await questioner.get(f"{questioner.target.base_url}/models")
    if page is None:  # raises where nobody listens at all
        await probe.fetch_version(questioner.target)
        return [], (Finding("/v1/models", Status.FAILED, "no answer", "the model's name: give it with --model"),)
    try:
        cards = await probe.fetch_models(questioner.target)
    except probe.AccessError as exc:
        named = "" if questioner.target.model else "; the model's name: give it with --model"
        return [], (Finding("/v1/models", Status.FAILED, str(exc), f"all that is refused likewise{named}"),)
    except TargetError as exc:
        costs = None if questioner.target.model else "the model's name: give it with --model"
        return [], (Finding("/v1/models", Status.MISSING, str(exc), costs),)
    length = cards[0].get("max_model_len") if cards else None
    names = ", ".join(str(card["id"]) for card in cards[:3]) + (", ..." if len(cards) > 3 else "")
    detail = names + (f" (context {length})" if length else "")
    return cards, (Finding("/v1/models", Status.OK if cards else Status.ODD, detail or "an empty list"),)


class _Patient:
    """What is known of the server so far."""

    def __init__(self, questioner: Questioner, findings: list[Finding], say: Say) -> None:
        self.findings = findings
        self.can_be_measured = False
        self._questioner = questioner
        self._say = say

    async def look_at_all(self, cases: CaseSet) -> None:
        """Chat with text first; what costs most comes last."""
        ask = self._questioner
        await self._look("chat, streamed", self._stream)
        if not self.can_be_measured:
            await self._look("chat, whole reply", lambda: text_checks.check_whole(ask))
            await self._look("routes", self._routes)
            return
        await self._look("chat, whole reply", lambda: text_checks.check_whole(ask))
        await self._look("connection", lambda: text_checks.check_connection(ask))
        await self._look("token limits", lambda: text_checks.check_limits(ask))
        await self._look("usage, logprobs, repetition", lambda: text_checks.check_extras(ask))
        await self._look("routes", self._routes)
        await self._look("media in", lambda: media_checks.check_inputs(ask, cases))
        await self._look("speech out", lambda: media_checks.check_speech(ask, cases))

    async def _look(self, name: str, check: Callable[[], Awaitable[tuple[Finding, ...]]]) -> None:
        self._say(f"looking at {name}")
        unseen = Finding(name, Status.UNSEEN, "no time was left: give more with --max-time", f"unknown: {name}")
        self.findings += await _in_time(check(), (unseen,))

    async def _stream(self) -> tuple[Finding, ...]:
        findings, answer = await text_checks.check_stream(self._questioner)
        says_finish = self._questioner.target.dialect.says_finish
        self.can_be_measured = text_checks.would_count(answer, says_finish=says_finish)
        return findings

    async def _routes(self) -> tuple[Finding, ...]:
        """Routes beside the API that the harness reads."""
        return (await self._health(), await self._metrics(), await self._tokenize())

    async def _health(self) -> Finding:
        page = await self._questioner.get(f"{self._questioner.target.root_url}/health")
        if page is None or page.status == 404:
            return Finding("/health", Status.MISSING, "judged by /v1/models instead")
        return Finding("/health", Status.OK if page.status == 200 else Status.ODD, f"HTTP {page.status}")

    async def _metrics(self) -> Finding:
        costs = "queue, KV cache and prefix hits as the server sees them"
        page = await self._questioner.get(f"{self._questioner.target.root_url}/metrics")
        if page is None or page.status != 200:
            detail = "no such page (SGLang has one when started with --enable-metrics, llama.cpp with --metrics)"
            return Finding("/metrics", Status.MISSING, detail, costs)
        sample = parse_sample(page.body.decode("utf-8", "replace"), 0.0)
        if sample is None:
            return Finding("/metrics", Status.ODD, "no name in it is known", costs)
        known = [name for name in sample.__dataclass_fields__ if name != "time_s" and getattr(sample, name) is not None]
        return Finding("/metrics", Status.OK, ", ".join(known))

    async def _tokenize(self) -> Finding:
        costs = "exact prompt lengths: --input-tokens needs --tokenizer FILE, or is an estimate"
        count = await self._questioner.count("one two three")
        if not count:
            return Finding("/tokenize", Status.MISSING, "no count of tokens", costs)
        return Finding("/tokenize", Status.OK, f"{count} tokens for three words")


async def _in_time(check: Awaitable[Any], otherwise: Any) -> Any:
    try:
        return await check
    except OutOfTimeError:
        return otherwise
