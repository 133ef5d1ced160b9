"""Whether two systems were asked the same: what forbids a comparison, and what a reader of it must know."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from ming_eval.compare.system import Pairs, PointKey, System
from ming_eval.errors import DataError
from ming_eval.report.document import setting
from ming_eval.targets import DIALECTS, Dialect
from ming_eval.types import RequestRecord

_NEARLY = 0.01  # a relative difference of counts that is still called the same

# Settings that change how long or how surely is measured. Any other one changes what is asked.
_HARMLESS = frozenset(
    {
        "profile",
        "concurrencies",
        "rates_per_s",
        "requests",
        "warmup_waves",
        "order",
        "rest_s",
        "duration_s",
        "until_ci",
        "stop_error_rate",
        "max_error_rate",
        "timeout_s",
        "outage_limit_s",
        "max_time_s",
        "slos",
        "tasks",  # points of different tasks never meet
        "repeats",
        "dataset_dir",  # the digests of the requests tell whether the same lies there
    }
)


@dataclass(frozen=True, slots=True)
class Difference:
    """Something in which two systems differ besides their speed; `forbids` when the figures do not compare."""

    what: str
    first: str
    second: str
    forbids: bool

    def __str__(self) -> str:
        return f"{self.what}: {self.first} against {self.second}"


def differences(first: System, second: System, pairs: Sequence[Pairs]) -> list[Difference]:
    """All differences, those that forbid a comparison first. `pairs` are those of the points that both have."""
    found = [
        *_settings(first, second),
        *_bodies(first, second, pairs),
        *_tokens(pairs),
        *_circumstances(first, second),
        *_points(first, second, pairs),
        *_fixed_lengths(first, second),
    ]
    return sorted(found, key=lambda difference: not difference.forbids)


def check_alike(first: System, second: System, found: Sequence[Difference], *, force: bool) -> None:
    """Refuse what must not be compared, unless forced.

    Raises:
        DataError: one of the differences forbids a comparison.
    """
    forbidden = [str(difference) for difference in found if difference.forbids]
    if forbidden and not force:
        raise DataError(
            f"{first.label} and {second.label} were not asked the same ({'; '.join(forbidden)}): "
            "measure them with equal settings, or compare all the same with --force"
        )


def _settings(first: System, second: System) -> Iterator[Difference]:
    """Of settings that both runs know: one of them may be older than an option."""
    a, b = first.manifest.settings, second.manifest.settings
    for name in a:
        if name in b and a[name] != b[name]:
            yield Difference(name, setting(a[name]), setting(b[name]), forbids=name not in _HARMLESS)


def _fixed_lengths(first: System, second: System) -> Iterator[Difference]:
    """What the servers do where a model would end its answer and may not: it changes all words behind, or their number.

    A dialect without a field for it is not told at all, so that answers end where the model ends them.
    """
    systems = (first, second)
    if not all(system.manifest.settings.get("ignore_eos") for system in systems):
        return
    known = [DIALECTS[system.backend.dialect] for system in systems if system.backend.dialect in DIALECTS]
    ways = [_end_token(dialect) for dialect in known]
    if len(set(ways)) > 1:
        a, b = ways
        yield Difference("the end token under --ignore-eos", a, b, forbids=False)


def _end_token(dialect: Dialect) -> str:
    if not dialect.supports_ignore_eos:
        return "not fixed"
    return "barred" if dialect.bars_eos else "drawn and gone beyond"


def _bodies(first: System, second: System, pairs: Sequence[Pairs]) -> Iterator[Difference]:
    """Request bytes by their digests; servers of another model or dialect are rightly asked in other words.

    So are later turns of a conversation that holds what the server itself has said.
    """
    a, b = first.backend, second.backend
    if (a.model, a.dialect) != (b.model, b.dialect):
        return
    holds_replies = first.manifest.settings.get("history", "replies") == "replies"
    asked = [
        pair
        for each in pairs
        for pair in zip(each.first, each.second, strict=True)
        if not (holds_replies and (pair[0].turn or 1) > 1)
    ]
    known = [(x.request_sha256, y.request_sha256) for x, y in asked if x.request_sha256 and y.request_sha256]
    if num_other := sum(x != y for x, y in known):
        yield Difference("request bodies", f"{len(known)} requests", f"{num_other} with other bytes", forbids=True)


def _tokens(pairs: Sequence[Pairs]) -> Iterator[Difference]:
    firsts = [record for each in pairs for record in each.first]
    seconds = [record for each in pairs for record in each.second]
    a, b = _sources(firsts), _sources(seconds)
    # Of a server that answered nothing it is not known how it counts, and no figure is there to be compared wrongly.
    if a != b and any(record.ok for record in firsts) and any(record.ok for record in seconds):
        yield Difference("token source", a, b, forbids=True)
    yield from _counts("prompt tokens", lambda record: record.num_prompt_tokens, firsts, seconds)
    yield from _counts("output tokens", lambda record: record.num_output_tokens, firsts, seconds)
    cached_a, cached_b = _cached_share(firsts), _cached_share(seconds)
    if cached_a is not None and cached_b is not None and abs(cached_a - cached_b) > _NEARLY:
        yield Difference("prompt tokens from the cache", f"{cached_a:.1%}", f"{cached_b:.1%}", forbids=False)


def _circumstances(first: System, second: System) -> Iterator[Difference]:
    a, b = first.manifest, second.manifest
    facts = (
        ("model", first.backend.model, second.backend.model),
        ("client host", f"{a.host.cpu}, {a.host.num_usable_cpus} CPUs", f"{b.host.cpu}, {b.host.num_usable_cpus} CPUs"),
        ("ming-eval", a.versions.get("ming-eval"), b.versions.get("ming-eval")),
        ("end of the run", _ended(first), _ended(second)),
    )
    for what, one, other in facts:
        if one != other:
            yield Difference(what, str(one), str(other), forbids=False)


def _points(first: System, second: System, pairs: Sequence[Pairs]) -> Iterator[Difference]:
    only_first, only_second = first.points.keys() - second.points.keys(), second.points.keys() - first.points.keys()
    if only_first or only_second:
        a, b = (
            ", ".join(map(str, sorted(only, key=lambda key: key.order))) or "none" for only in (only_first, only_second)
        )
        yield Difference("points that the other has not", a, b, forbids=False)
    if num_unpaired := sum(each.num_unpaired for each in pairs):
        paired = sum(len(each.first) for each in pairs)
        yield Difference("requests", f"{paired} in both", f"{num_unpaired} in one only", forbids=False)


def _names(keys: Iterable[PointKey]) -> str:
    return ", ".join(map(str, sorted(keys, key=lambda key: key.order))) or "none"


def _sources(records: Sequence[RequestRecord]) -> str:
    names = {record.token_source.value for record in records if record.token_source is not None}
    return " and ".join(sorted(names)) or "none"


def _counts(
    what: str,
    count: Callable[[RequestRecord], int | None],
    firsts: Sequence[RequestRecord],
    seconds: Sequence[RequestRecord],
) -> Iterator[Difference]:
    """The means over pairs in which both are good and say a number."""
    known = [
        (a, b)
        for one, other in zip(firsts, seconds, strict=True)
        if one.ok and other.ok and (a := count(one)) is not None and (b := count(other)) is not None
    ]
    if not known:
        return
    mean_a, mean_b = sum(a for a, _ in known) / len(known), sum(b for _, b in known) / len(known)
    if abs(mean_a - mean_b) > _NEARLY * max(mean_a, mean_b):
        yield Difference(f"{what} per request", f"{mean_a:.1f}", f"{mean_b:.1f}", forbids=False)


def _cached_share(records: Sequence[RequestRecord]) -> float | None:
    known = [(r.num_cached_tokens, r.num_prompt_tokens) for r in records if r.ok and r.num_cached_tokens is not None]
    total = sum(prompt or 0 for _, prompt in known)
    return sum(cached or 0 for cached, _ in known) / total if total else None


def _ended(system: System) -> str:
    return "cut short" if system.manifest.finished is None else "finished"
