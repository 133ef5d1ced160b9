"""What a run asks of one suite: which items, in which order of choices, how often, with which request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from string import ascii_uppercase
from typing import Any

import msgspec

from ming_eval.accuracy_results import DataOrigin
from ming_eval.errors import UsageError
from ming_eval.evals import data, sampling
from ming_eval.evals.data import DataOptions
from ming_eval.evals.digest import digest
from ming_eval.evals.item import Item, Kind
from ming_eval.evals.optional import require
from ming_eval.evals.ordering import OptionOrder, orders, presented
from ming_eval.evals.scoring.score import SCORING_VERSIONS, scorable
from ming_eval.evals.suite import Protocol, Suite

LOGLIKELIHOOD_PROTOCOL = "mcq-loglikelihood"


class Method(StrEnum):
    """How a model answers: by writing, or by how likely it finds each choice."""

    GENERATE = "generate"
    LOGLIKELIHOOD = "loglikelihood"


@dataclass(frozen=True, slots=True)
class AskOptions:
    """What the command line says about every suite of a run; `judge` names the model that listens to speech."""

    protocol: str | None = None
    method: Method = Method.GENERATE
    limit: int | None = None
    per_group: int | None = None
    repeats: int = 1
    seed: int = 0
    order: OptionOrder = OptionOrder.ORIGINAL
    data: DataOptions = field(default_factory=DataOptions)
    judge: str | None = None
    max_tokens: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Sample:
    """One reply to get: `item` as displayed, with choices in `order`; `rotation` counts the orders of one item."""

    item: Item
    repeat: int
    rotation: int
    order: tuple[int, ...]

    @property
    def key(self) -> tuple[str, int, int]:
        """What identifies the sample within its suite."""
        return self.item.id, self.repeat, self.rotation


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything about one suite of a run but the servers.

    `examples` are the solved ones to show, by stratum; `stratum_sizes` are of all items that were loaded.
    `num_without_reference` counts those that were left out, since nothing of their reference can be compared.
    """

    suite: Suite
    protocol_name: str
    protocol: Protocol
    options: AskOptions
    origin: DataOrigin
    samples: tuple[Sample, ...]
    examples: Mapping[str, tuple[Item, ...]]
    stratum_sizes: Mapping[str, int]
    num_without_reference: int = 0

    @property
    def name(self) -> str:
        """How the suite is reported: a bundled sample is not the benchmark."""
        return f"{self.suite.name}-sample" if self.origin.is_sample else self.suite.name

    @property
    def metric(self) -> str:
        """The suite's metric; a figure that depends on a recogniser carries its name."""
        metric = self.suite.score.metric
        return f"{metric}[{self.options.judge}]" if self.suite.kind is Kind.SPEECH else metric

    @property
    def strata(self) -> str | None:
        """The reporting dimension that the strata are made of."""
        return self.suite.sampling.strata

    @property
    def num_items(self) -> int:
        """Items asked, whatever the number of repeats."""
        return len({sample.item.id for sample in self.samples})

    def examples_for(self, item: Item) -> Sequence[Item]:
        """The solved examples to show before `item`."""
        return self.examples.get(sampling.stratum_of(item, self.strata), ())

    @property
    def is_sampled(self) -> bool:
        """True when only some of the loaded items are asked."""
        return self.num_items < sum(self.stratum_sizes.values())

    @property
    def items_digest(self) -> str:
        """A digest of what is asked: the data and the chosen samples."""
        return digest(self.origin.digest, [sample.key for sample in self.samples])[:16]

    @property
    def asked_hash(self) -> str:
        """A digest of everything that decides what is sent besides items and server; how replies are read is not in it.

        Unlike `protocol_hash` it stays the same from one version of this package to the next.
        """
        options = self.options
        is_speech = self.suite.kind is Kind.SPEECH
        return digest(
            self.suite.name,
            self.suite.suite.version,
            {name: value for name, value in self.protocol.choices_made.items() if name != "origin"},
            is_speech,
            options.method,
            options.order,
            options.seed,
            options.judge if is_speech else None,
            {name: [_shown(item) for item in each] for name, each in self.examples.items()},
        )[:16]

    @property
    def protocol_hash(self) -> str:
        """A digest of everything that can move a score besides items and server."""
        options = self.options
        return digest(
            self.suite.name,
            self.suite.suite.version,
            self.protocol_name,
            msgspec.to_builtins(self.protocol),
            msgspec.to_builtins(self.suite.score),
            self.suite.kind,
            SCORING_VERSIONS[self.suite.kind],
            options.method,
            options.order,
            options.judge if self.suite.kind is Kind.SPEECH else None,
            options.seed if options.order is OptionOrder.SHUFFLED else None,
            {name: [item.id for item in each] for name, each in self.examples.items()},
        )[:16]


def make_plan(suite: Suite, options: AskOptions) -> Plan:
    """Load a suite's items and choose those to ask.

    Raises:
        UsageError: the options do not fit the suite.
        DataError: the items cannot be loaded or scored.
    """
    protocol_name, protocol = _protocol(suite, options)
    loaded = data.load(suite, options.data, needs_examples=protocol.examples > 0, needs_media=protocol.media)
    _require_packages(suite, protocol)
    items = scorable(loaded.items, suite)
    strata = suite.sampling.strata
    chosen = sampling.select(items, strata=strata, per_group=options.per_group, limit=options.limit, seed=options.seed)
    _check(suite, options, chosen)
    sizes = {name: len(members) for name, members in sampling.by_stratum(items, strata).items()}
    examples = _examples(suite, protocol, loaded.examples, chosen)
    return Plan(
        suite,
        protocol_name,
        protocol,
        options,
        loaded.origin,
        _samples(chosen, options),
        examples,
        sizes,
        num_without_reference=len(loaded.items) - len(items),
    )


def _examples(
    suite: Suite, protocol: Protocol, examples: Sequence[Item], chosen: Sequence[Item]
) -> dict[str, tuple[Item, ...]]:
    """The solved examples of every stratum that is asked, in file order; none has a question that is scored as well.

    Raises:
        UsageError: there are too few for a stratum.
    """
    if not protocol.examples:
        return {}
    strata = suite.sampling.strata
    scored = {item.question for item in chosen}
    fitting = sampling.by_stratum([each for each in examples if each.question not in scored], strata)
    found = {name: tuple(fitting.get(name, ())[: protocol.examples]) for name in sampling.by_stratum(chosen, strata)}
    for name, each in found.items():
        if len(each) < protocol.examples:
            where = f" for {strata} {name}" if strata is not None else ""
            raise UsageError(
                f"suite {suite.name}: the protocol needs {protocol.examples} solved examples{where}, found {len(each)}"
            )
    return found


def _shown(example: Item) -> list[object]:
    """What a solved example shows."""
    return [example.question, example.choices, msgspec.to_builtins(example.answer)]


def _protocol(suite: Suite, options: AskOptions) -> tuple[str, Protocol]:
    """The protocol as asked for, with the length and the further fields that replace or join its own."""
    if options.max_tokens is not None and options.method is Method.LOGLIKELIHOOD:
        raise UsageError("--max-tokens is for answers, and --method loglikelihood asks for none")
    if options.max_tokens is not None and suite.kind is Kind.SPEECH:
        raise UsageError(f"--max-tokens is for written answers, and suite {suite.name} has texts spoken")
    name, protocol = _chosen(suite, options)
    max_tokens = protocol.max_tokens if options.max_tokens is None else options.max_tokens
    return name, msgspec.structs.replace(protocol, max_tokens=max_tokens, extra={**protocol.extra, **options.extra})


def _chosen(suite: Suite, options: AskOptions) -> tuple[str, Protocol]:
    if options.method is Method.LOGLIKELIHOOD and suite.kind is not Kind.MCQ:
        raise UsageError(f"--method loglikelihood scores choices, and suite {suite.name} has none")
    if options.protocol is None and options.method is Method.LOGLIKELIHOOD:
        if LOGLIKELIHOOD_PROTOCOL not in suite.protocols:
            raise UsageError(f"suite {suite.name} has no [prompt.{LOGLIKELIHOOD_PROTOCOL}]: name a --protocol")
        return suite.protocol(LOGLIKELIHOOD_PROTOCOL)
    return suite.protocol(options.protocol)


def _check(suite: Suite, options: AskOptions, chosen: Sequence[Item]) -> None:
    if suite.kind is Kind.SPEECH and options.judge is None:
        raise UsageError(f"suite {suite.name} needs a recogniser that listens to the speech: name one with --judge")
    if options.order is not OptionOrder.ORIGINAL and not any(item.choices for item in chosen):
        raise UsageError(f"suite {suite.name} has no choices to reorder")
    bad = [
        item.id
        for item in chosen
        if (item.kind or suite.kind) is Kind.MCQ and not 2 <= len(item.choices) <= len(ascii_uppercase)
    ]
    if bad:
        raise UsageError(
            f"suite {suite.name}: choices are named A to Z, so that an item has 2 to 26 of them; "
            f"{len(bad)} do not, such as {bad[0]}"
        )


def _require_packages(suite: Suite, protocol: Protocol) -> None:
    """Find out before anything is asked that answers could not be scored, or videos not be read.

    Raises:
        UsageError: a package is missing.
    """
    if suite.kind in (Kind.TRANSCRIPT, Kind.SPEECH):
        require("jiwer", purpose="scoring transcripts")
    if (protocol.media and protocol.as_frames) or protocol.subtitles == "sampled":
        require("av", purpose="sampling frames of videos")


def _samples(items: Sequence[Item], options: AskOptions) -> tuple[Sample, ...]:
    return tuple(
        Sample(presented(item, order), repeat, rotation, order)
        for repeat in range(options.repeats)
        for item in items
        for rotation, order in enumerate(orders(item, options.order, options.seed))
    )
