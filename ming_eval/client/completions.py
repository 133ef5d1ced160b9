"""What `/v1/completions` takes in place of messages: a raw prompt, as text or in token ids. Pure."""

from __future__ import annotations

from ming_eval.errors import DataError
from ming_eval.types import Request, Text


def prompt_of(request: Request) -> str | tuple[int, ...]:
    """The prompt of one request: its ids, else the text of its one message as it is, without a chat template.

    Raises:
        DataError: the request has a history, holds media or is to be answered aloud.
    """
    if request.wants_audio:
        raise DataError("/v1/completions answers in text: ask for speech in a chat")
    if request.prompt_ids is not None:
        return request.prompt_ids
    if len(request.messages) != 1:
        raise DataError("/v1/completions takes one prompt and no history: send conversations as chats")
    texts = [part.text for part in request.messages[0].parts if isinstance(part, Text)]
    if len(texts) != len(request.messages[0].parts):
        raise DataError("/v1/completions takes text alone: send media in a chat")
    return "".join(texts)
