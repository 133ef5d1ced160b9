"""The suites of a stored accuracy run with the answers that were kept, ready to be scored again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ming_eval.accuracy_results import ItemResult, SuiteResult, read_accuracy
from ming_eval.commands.accuracy_run import Answers
from ming_eval.commands.accuracy_settings import AccuracySettings, make_plans
from ming_eval.commands.accuracy_turns import backend_name
from ming_eval.errors import DataError
from ming_eval.evals.plan import Plan
from ming_eval.evals.responses import Response, read_responses
from ming_eval.evals.runner import SampleKey
from ming_eval.evals.summarise import Conduct, further_settings
from ming_eval.load.summary import KILLED
from ming_eval.manifest import Manifest
from ming_eval.results import Verdict


@dataclass(frozen=True, slots=True)
class StoredAnswers:
    """What a run left; `verdict` is why it did not get to its end, None when it did.

    `protocol_hashes` are those of this version, whose rules may read replies otherwise.
    """

    answers: tuple[Answers, ...]
    verdict: Verdict | None
    max_error_rate: float
    protocol_hashes: tuple[str, ...]


def read_answers(folder: Path, manifest: Manifest, items: Sequence[ItemResult]) -> StoredAnswers:
    """The answers of a run by suite and backend; `items` are its item lines, none when it was killed.

    Raises:
        DataError: it is no accuracy run, or its suites or data are not what they were.
    """
    settings = AccuracySettings.of(manifest)
    plans = make_plans(settings)
    if settings.with_digests(plans).item_digests != settings.item_digests:
        raise DataError(f"{manifest.run}: the data is not what it was when the run began; restore it to score again")
    responses = read_responses(folder)
    _refuse_other_questions(folder, settings, plans)
    names = [backend.name for backend in manifest.backends]
    groups = [names] if settings.shard else [[name] for name in names]
    summary = read_accuracy(folder) if (folder / "summary.json").exists() else None
    before = {} if summary is None else {(suite.backend, suite.suite): suite for suite in summary.suites}
    answers = tuple(
        Answers(
            plan,
            _of_plan(plan, group, responses, items),
            _conduct(plan, group, manifest, before, settings),
        )
        for group in groups
        for plan in plans
    )
    verdict = KILLED if summary is None else summary.verdict if summary.partial else None
    hashes = tuple(plan.protocol_hash for plan in plans)
    return StoredAnswers(answers, verdict, settings.max_error_rate, hashes)


def _refuse_other_questions(folder: Path, settings: AccuracySettings, plans: Sequence[Plan]) -> None:
    """Replies to one prompt are not answers to another one that a suite file has since.

    Raises:
        DataError: a suite asks otherwise than it did.
    """
    has_summary = (folder / "summary.json").exists()
    before = {suite.suite: suite for suite in read_accuracy(folder).suites} if has_summary else {}
    if settings.asked_hashes:
        pairs = zip(settings.asked_hashes, plans, strict=True)
        changed = next((plan for asked, plan in pairs if asked != plan.asked_hash), None)
    else:
        known = (plan for plan in plans if plan.name in before)
        changed = next((plan for plan in known if _asks_otherwise(plan, before[plan.name])), None)
    if changed is not None:
        name = f"{changed.name} v{before[changed.name].version}" if changed.name in before else changed.name
        shown = " and that of its solved examples" if changed.examples else ""
        raise DataError(
            f"{folder.name}: {name} was asked otherwise than its file (v{changed.suite.suite.version}) says now; "
            f"restore the file{shown} to score the replies again"
        )


def _asks_otherwise(plan: Plan, before: SuiteResult) -> bool:
    """True where the summary of a run that kept no digest of what it asked shows that something else was.

    The oldest ones have nothing of the protocol's settings.
    """
    protocol, settings = plan.protocol, before.protocol_settings
    was = (before.version, before.prompt, before.max_tokens, before.temperature)
    if was != (plan.suite.suite.version, protocol.text, protocol.max_tokens, protocol.temperature):
        return True
    return bool(settings) and _that_ask(settings) != _that_ask(further_settings(plan))


def _that_ask(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "origin"}


def _of_plan(
    plan: Plan, group: Sequence[str], responses: Mapping[str, Response], items: Iterable[ItemResult]
) -> dict[SampleKey, Response]:
    """The answers that the run scored; of a killed one, the last that came for each sample."""
    if items:
        mine = [item for item in items if (item.suite, item.backend) == (plan.name, backend_name(group))]
        keys = {(item.id, item.repeat, item.rotation): item.response for item in mine}
        return {key: responses[name] for key, name in keys.items() if name is not None and name in responses}
    found = [each for each in responses.values() if each.suite == plan.name and each.backend in group]
    return {(each.id, each.repeat, each.rotation): each for each in found}


def _conduct(
    plan: Plan,
    group: Sequence[str],
    manifest: Manifest,
    before: Mapping[tuple[str, str], SuiteResult],
    settings: AccuracySettings,
) -> Conduct:
    name = backend_name(group)
    suite = before.get((name, plan.name))
    model = next(backend.model for backend in manifest.backends if backend.name == group[0])
    return Conduct(
        backend=name,
        model=model,
        wall_s=None if suite is None else suite.wall_s,
        reused=0 if suite is None else suite.reused,
        max_error_rate=settings.max_error_rate,
    )
