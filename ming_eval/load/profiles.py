"""Named load profiles, as data: what is sent, how long the answers are, which points are visited."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ming_eval.errors import UsageError
from ming_eval.load.plan import LoadPlan, parse_concurrency


@dataclass(frozen=True, slots=True)
class Profile:
    """Defaults of a sweep; an option on the command line wins. Fields as in `LoadPlan`."""

    name: str
    description: str
    prompts: str = "chat"
    concurrency: str = "1..32"
    requests: int | None = None
    max_tokens: int = 64
    ignore_eos: bool = True
    warmup_waves: int = 1


PROFILES: dict[str, Profile] = {
    profile.name: profile
    for profile in (
        Profile("chat", "short questions, 64 output tokens each, max(16, 4 x concurrency) requests a point"),
        Profile(
            "quick",
            "a few seconds: concurrency 1 to 4, 8 requests a point, 16 output tokens each",
            concurrency="1..4",
            requests=8,
            max_tokens=16,
        ),
        Profile(
            "natural",
            "answers end where the model ends them, at most 256 tokens; 80 requests a point, 3 warm-up waves",
            requests=80,
            max_tokens=256,
            ignore_eos=False,
            warmup_waves=3,
        ),
    )
}


def find_profile(name: str) -> Profile:
    """The profile called `name`.

    Raises:
        UsageError: there is none.
    """
    if name not in PROFILES:
        raise UsageError(f"unknown profile {name!r}: choose one of {', '.join(PROFILES)}")
    return PROFILES[name]


def override(
    profile: Profile,
    *,
    concurrency: str | None,
    requests: int | None,
    max_tokens: int | None,
    ignore_eos: bool | None,
    warmup_waves: int | None,
) -> Profile:
    """`profile` with whatever is not None in its place."""
    return replace(
        profile,
        concurrency=profile.concurrency if concurrency is None else concurrency,
        requests=profile.requests if requests is None else requests,
        max_tokens=profile.max_tokens if max_tokens is None else max_tokens,
        ignore_eos=profile.ignore_eos if ignore_eos is None else ignore_eos,
        warmup_waves=profile.warmup_waves if warmup_waves is None else warmup_waves,
    )


def plan_load(profile: Profile, *, seed: int, max_error_rate: float, timeout_s: float | None) -> LoadPlan:
    """The sweep that `profile` stands for, as a closed loop; `load.shaping` makes others of it.

    Raises:
        UsageError: its concurrency cannot be read.
    """
    return LoadPlan(
        profile=profile.name,
        prompts=profile.prompts,
        concurrencies=parse_concurrency(profile.concurrency),
        requests=profile.requests,
        max_tokens=profile.max_tokens,
        ignore_eos=profile.ignore_eos,
        warmup_waves=profile.warmup_waves,
        seed=seed,
        max_error_rate=max_error_rate,
        timeout_s=timeout_s,
    )
