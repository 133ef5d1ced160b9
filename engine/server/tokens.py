"""The tokenizer routes: texts and conversations to ids and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from engine.errors import InvalidRequest
from engine.inputs.media import Preprocessed
from engine.server.conversation import MessageBody, conversation
from engine.server.jsonbody import decode_body
from engine.server.media import NeedsMedia
from engine.server.plan import Serving
from engine.server.prompts import PromptChoices, draft_prompt, encode_text
from engine.server.sampling import check_model, check_token


class TokenizeBody(msgspec.Struct, kw_only=True):
    """POST /tokenize: a prompt or messages."""

    model: str | None = None
    prompt: str | None = None
    add_special_tokens: bool | None = None
    messages: list[MessageBody] | None = None
    add_generation_prompt: bool | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None


class DetokenizeBody(msgspec.Struct):
    """POST /detokenize."""

    tokens: list[int]
    model: str | None = None


def tokenize(body: bytes, serving: Serving) -> dict[str, object] | NeedsMedia[dict[str, object]]:
    """The ids that the same prompt, or the same chat, would have.

    Raises:
        InvalidRequest: naming the field at fault.
    """
    serving.need_tokenizer("/tokenize")
    request = decode_body(body, TokenizeBody, serving.field_log)
    check_model(request.model, serving)
    if (request.prompt is None) == (request.messages is None):
        raise InvalidRequest("give either prompt or messages", param="prompt", code="missing_field")
    if request.prompt is not None:
        return _counted(encode_text(request.prompt, serving, add_special_tokens=request.add_special_tokens), serving)
    generation = request.add_generation_prompt is not False
    messages = conversation(request.messages or [])
    draft = draft_prompt(messages, PromptChoices.of(request, serving), serving, add_generation_prompt=generation)

    def finish(media: Sequence[Preprocessed]) -> dict[str, object]:
        return _counted(draft.encode(media).ids, serving)

    return NeedsMedia(draft.media, finish) if draft.media else finish(())


def _counted(ids: Sequence[int], serving: Serving) -> dict[str, object]:
    return {"count": len(ids), "max_model_len": serving.info.max_model_len, "tokens": ids}


def detokenize(body: bytes, serving: Serving) -> dict[str, object]:
    """The text of ids, control tokens included.

    Raises:
        InvalidRequest: an id is outside the vocabulary.
    """
    tokenizer = serving.need_tokenizer("/detokenize")
    request = decode_body(body, DetokenizeBody, serving.field_log)
    check_model(request.model, serving)
    for token in (min(request.tokens, default=0), max(request.tokens, default=0)):
        check_token("tokens", token, serving.info.vocab_size)
    return {"prompt": tokenizer.decode(request.tokens, skip_special=False)}


def tokenizer_info(serving: Serving) -> dict[str, object]:
    """What a remote tokenizer needs to know.

    Raises:
        InvalidRequest: the server has no tokenizer.
    """
    tokenizer = serving.need_tokenizer("/tokenizer_info")
    texts: dict[int | None, str] = {token_id: text for text, token_id in tokenizer.special_ids.items()}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": texts.get(tokenizer.eos_token_id),
        "bos_token": texts.get(tokenizer.bos_token_id),
        "pad_token": texts.get(tokenizer.pad_token_id),
        "chat_template": tokenizer.chat_template,
        "vocab_size": tokenizer.vocab_size,
        "special_token_ids": sorted(tokenizer.special_ids.values()),
        "max_model_len": serving.info.max_model_len,
    }
