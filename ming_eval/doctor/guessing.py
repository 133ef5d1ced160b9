"""Which dialect a server speaks, by what only servers of one family have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ming_eval.client.page import Page
from ming_eval.doctor.asking import Questioner
from ming_eval.load.identify import DIALECT_OF_OWNER

# A route and a key of its answer that no other family has.
_ROUTES = (
    ("llamacpp", "/props", "default_generation_settings"),
    ("sglang", "/get_model_info", "model_path"),
    ("sglang", "/model_info", "model_path"),
)


async def guess_dialect(questioner: Questioner, cards: Sequence[dict[str, Any]]) -> tuple[str, str]:
    """The name of the dialect that fits best, and why."""
    owner = str(cards[0].get("owned_by")) if cards else None
    if owner in DIALECT_OF_OWNER:
        return DIALECT_OF_OWNER[owner], f"the model card is owned by {owner!r}"
    root = questioner.target.root_url
    for name, route, key in _ROUTES:
        if key in _keys(await questioner.get(root + route)):
            return name, f"{route} answers with {key!r}"
    if "/load_model" in await _paths(questioner):
        return "transformers", "/openapi.json has the route /load_model"
    page = await questioner.post(questioner.target.base_url + "/chat/completions", {})
    if page is not None and page.status == 404 and await _takes_forms(questioner):
        return "mstar-native", "there is no /v1/chat/completions, and /generate takes requests"
    if cards and "@" in str(cards[0].get("id")):
        return "transformers", "the model's name carries a revision behind an @"
    return "openai", "nothing points to another family"


async def _takes_forms(questioner: Questioner) -> bool:
    page = await questioner.get(questioner.target.root_url + "/generate")
    return page is not None and page.status == 405


async def _paths(questioner: Questioner) -> frozenset[str]:
    """The routes of a server that describes itself, as those on FastAPI do."""
    content = _content(await questioner.get(questioner.target.root_url + "/openapi.json"))
    paths = content.get("paths")
    return frozenset(paths) if isinstance(paths, dict) else frozenset()


def _keys(page: Page | None) -> frozenset[str]:
    return frozenset(_content(page))


def _content(page: Page | None) -> dict[str, Any]:
    if page is None or page.status != 200:
        return {}
    try:
        content = msgspec.json.decode(page.body)
    except msgspec.DecodeError:
        return {}
    return content if isinstance(content, dict) else {}
