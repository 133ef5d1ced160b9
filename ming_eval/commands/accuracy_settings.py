"""What an accuracy run was asked to do, as one value: from the command line, into the manifest, and back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from ming_eval.errors import UsageError
from ming_eval.evals.data import DataOptions
from ming_eval.evals.ordering import OptionOrder
from ming_eval.evals.plan import AskOptions, Method, Plan, make_plan
from ming_eval.evals.recogniser import parse_judge
from ming_eval.evals.similarity import asks_with_voice
from ming_eval.evals.suite import find_suite
from ming_eval.load.links import Link, check_links, find_links
from ming_eval.load.shaping import parse_body, parse_extra_body, parse_workers
from ming_eval.manifest import Manifest, other_kind

ANSWER_WORKER = "ming_eval.commands.accuracy_worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracySettings:
    """All options that a run can be repeated from; the digests are of what they came to when it began.

    `asked_hashes` is empty in runs of versions that did not keep any.
    """

    suites: tuple[str, ...]
    protocol: str | None
    method: Method
    data: str | None
    examples: str | None
    media_root: str | None
    limit: int | None
    per_group: int | None
    repeats: int
    option_order: OptionOrder
    seed: int
    concurrency: int
    shard: bool
    timeout_s: float
    max_error_rate: float
    judge: str | None = None
    speaker_encoder: str | None = None
    workers: str = "1"
    max_tokens: int | None = None
    extra_body: str | None = None
    protocol_hashes: tuple[str, ...] = ()
    asked_hashes: tuple[str, ...] = ()
    item_digests: tuple[str, ...] = ()

    @classmethod
    def of(cls, manifest: Manifest) -> AccuracySettings:
        """The settings of a stored run.

        Raises:
            DataError: it is no accuracy run.
        """
        try:
            return msgspec.convert(manifest.settings, cls)
        except msgspec.ValidationError as exc:
            raise other_kind(manifest, "accuracy", exc) from exc

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> AccuracySettings:
        """The settings as the command line gives them.

        Raises:
            UsageError: a value is none of the choices, or a further field is one that a request has to have.
        """
        parse_extra_body(values.get("extra_body"))
        if values["method"] not in list(Method):
            raise UsageError(f"no --method {values['method']!r}: choose one of {', '.join(Method)}")
        return msgspec.convert(dict(values), cls)

    def changed(self, typed: Mapping[str, Any], names: Iterable[str]) -> AccuracySettings:
        """These settings with the named ones as typed now."""
        given = self.parse(typed)
        return replace(self, **{name: getattr(given, name) for name in names})

    @property
    def is_shared(self) -> bool:
        """True when other processes than this one ask."""
        return parse_workers(self.workers) != (1, None)

    def links(self) -> list[Link]:
        """The processes that ask, none of them started.

        Raises:
            UsageError: a cluster is named, and Ray is not installed.
            TargetError: the cluster cannot be reached.
        """
        return find_links(*parse_workers(self.workers), ANSWER_WORKER)

    def ask_options(self) -> AskOptions:
        """The part that decides what is asked."""
        return AskOptions(
            protocol=self.protocol,
            method=self.method,
            limit=self.limit,
            per_group=self.per_group,
            repeats=self.repeats,
            seed=self.seed,
            order=self.option_order,
            data=DataOptions(self.data, self.examples, self.media_root),
            judge=None if self.judge is None else parse_judge(self.judge).model,
            max_tokens=self.max_tokens,
            extra=parse_body(self.extra_body),
        )

    def with_digests(self, plans: Sequence[Plan]) -> AccuracySettings:
        """The settings with what they came to."""
        return replace(
            self,
            protocol_hashes=tuple(plan.protocol_hash for plan in plans),
            asked_hashes=tuple(plan.asked_hash for plan in plans),
            item_digests=tuple(plan.items_digest for plan in plans),
        )


def make_plans(settings: AccuracySettings) -> list[Plan]:
    """A plan for each suite, in the order given.

    Raises:
        UsageError: a suite does not exist, or the options do not fit it.
        DataError: a suite or its data cannot be read.
    """
    if not settings.suites:
        raise UsageError("name one or more suites; `ming-eval accuracy --list` shows them")
    if settings.data is not None and len(settings.suites) > 1:
        raise UsageError("--data is for one suite: name one")
    plans = [make_plan(find_suite(name), settings.ask_options()) for name in settings.suites]
    _check_encoder(settings, plans)
    return plans


def refuse_suites_twice(plans: Iterable[Plan]) -> None:
    """Replies are kept by the names of suite and item: of a suite named twice they would be taken for repeats.

    Raises:
        UsageError: two plans are of one suite.
    """
    for name, count in Counter(plan.suite.name for plan in plans).items():
        if count > 1:
            raise UsageError(f"suite {name} is named twice: name it once; --repeats asks its items more often")


def check_workers(settings: AccuracySettings) -> None:
    """See that there can be as many processes as the settings name, and of that kind.

    Raises:
        UsageError: there cannot, or the text names none.
    """
    count, cluster = parse_workers(settings.workers)
    check_links(cluster)
    refuse_idle_workers(count or 1, settings.concurrency)


def refuse_idle_workers(count: int, concurrency: int) -> None:
    """Every process sends at least one request at a time.

    Raises:
        UsageError: there are more of them than requests at a time.
    """
    if count > concurrency:
        raise UsageError(f"{count} workers share {concurrency} requests at a time: raise --concurrency, or take fewer")


def _check_encoder(settings: AccuracySettings, plans: Sequence[Plan]) -> None:
    if settings.speaker_encoder is not None and not any(map(asks_with_voice, plans)):
        raise UsageError("--speaker-encoder: no request of these suites carries a voice that speech could be alike to")


def refuse_other_protocol(before: AccuracySettings, now: AccuracySettings, run: str) -> None:
    """Stop a run from going on with something else than it began with.

    Raises:
        UsageError: suites, protocol or items differ.
    """
    if before.protocol_hashes != now.protocol_hashes and before.suites != now.suites:
        raise UsageError(f"{run} asked {', '.join(before.suites)}: name the same suites or none, or start a new run")
    if before.protocol_hashes != now.protocol_hashes:
        raise UsageError(
            f"{run} was asked by another protocol ({', '.join(before.protocol_hashes)}, "
            f"now {', '.join(now.protocol_hashes)}): start a new run, or after an update `ming-eval rescore` it first"
        )
    if before.asked_hashes and before.asked_hashes != now.asked_hashes:
        raise UsageError(
            f"{run} was asked by another seed or with other solved examples: repeat its options, or start a new run"
        )
    if before.item_digests != now.item_digests:
        raise UsageError(f"{run} was asked other items: repeat its options, or start a new run")


def refuse_stored_embeddings(settings: AccuracySettings) -> None:
    """Say where embeddings that were computed elsewhere belong: there are none before there is speech.

    Raises:
        UsageError: `settings` name a file of them.
    """
    if settings.speaker_encoder is not None and settings.speaker_encoder.endswith(".jsonl"):
        raise UsageError(
            "--speaker-encoder: embeddings come after the speech; compute those of the run's audio/ and of the voices, "
            "then `ming-eval rescore RUN --speaker-encoder NAME=FILE.jsonl`"
        )
