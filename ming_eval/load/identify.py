"""What a server says about itself before it is measured: its model, its version, which dialect fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ming_eval.client import probe
from ming_eval.errors import TargetError
from ming_eval.results import Backend
from ming_eval.targets import DIALECTS, Target

DIALECT_OF_OWNER = {
    "ming-eval": "ming",
    "vllm": "vllm",
    "sglang": "sglang",
    "sglang-omni": "sglang-omni",
    "llamacpp": "llamacpp",
    "mstar": "mstar",
}  # `owned_by` of the model card


async def identify(
    target: Target, *, launched: bool, guess_dialect: bool, warn: Callable[[str], None]
) -> tuple[Target, Backend]:
    """The target with its model and dialect settled, and what the manifest says about it.

    Raises:
        TargetError: nobody listens, or the model is neither given nor listed by the server.
    """
    cards = await _model_cards(target)
    card = _pick(target, cards, warn)
    version = await probe.fetch_version(target)
    owner = card.get("owned_by") if card else None
    dialect = DIALECTS[DIALECT_OF_OWNER.get(str(owner), target.dialect.name)] if guess_dialect else target.dialect
    settled = replace(target, model=target.model or (str(card["id"]) if card else None), dialect=dialect)
    return settled, Backend(
        name=target.name,
        url=target.base_url,
        dialect=dialect.name,
        model=settled.model,
        version=version,
        launched=launched,
        model_card=card,
        header_names=tuple(name for name, _ in target.headers),
    )


async def _model_cards(target: Target) -> list[dict[str, Any]]:
    try:
        return await probe.fetch_models(target)
    except probe.AccessError as exc:  # nothing else that is asked would be answered, unless the list alone is closed
        if target.model is None:
            raise TargetError(f"{exc} (where only its list of models is closed: name one with --model)") from exc
        return []
    except TargetError as exc:
        if target.model is None and target.dialect.names_model:
            raise TargetError(f"{exc}; where it has a model all the same, name it with --model") from exc
        return []  # not every server lists its models; one that is not there fails at the next question


def _pick(target: Target, cards: list[dict[str, Any]], warn: Callable[[str], None]) -> dict[str, Any] | None:
    """The card of the model to measure: the one asked for, else the first."""
    if target.model is None:
        if not cards and not target.dialect.names_model:
            return None
        if not cards:
            raise TargetError(f"{target.name} lists no model: name one with --model")
        return cards[0]
    found = next((card for card in cards if card["id"] == target.model), None)
    if cards and found is None:
        names = ", ".join(str(card["id"]) for card in cards)
        warn(f"{target.name} does not list the model {target.model!r}; it has {names}")
    return found
