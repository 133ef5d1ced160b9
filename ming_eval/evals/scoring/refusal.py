"""Why a reply without an answer has none."""

from __future__ import annotations

import re

from ming_eval.evals.item import Reason, Reply

_REFUSALS = (
    r"\b(?:i['’]?m|i am)\s+(?:\w+\s+)?(?:sorry|afraid|unable|not able)\b[^.!?\n]{0,60}?"
    r"\b(?:can(?:no|['’])t|unable|not able|won['’]t|to)\s+(?:\w+\s+){0,3}?"
    r"(?:assist|help|comply|provide|answer|fulfil|fulfill|engage|discuss|continue)",
    r"\bi\s+(?:can(?:no|['’])t|won['’]t|will not|must decline to|decline to)\s+"
    r"(?:assist|help|comply|answer|fulfil|fulfill|engage|participate)",
    r"(?:抱歉|对不起|很遗憾)[^。\n]{0,20}(?:无法|不能|没有办法)[^。\n]{0,6}(?:回答|帮助|提供|协助|讨论)",
)
_REFUSAL = re.compile("|".join(_REFUSALS), re.IGNORECASE)


def reason_of(prepared: str | None, reply: Reply) -> Reason:
    """The reason of a reply in which no rule found an answer; `prepared` is None for unfinished reasoning."""
    if prepared is None:
        return Reason.TRUNCATED
    if not prepared:
        return Reason.TRUNCATED if reply.is_truncated else Reason.EMPTY
    if reply.finish_reason == "content_filter" or _REFUSAL.search(prepared):
        return Reason.REFUSAL
    return Reason.TRUNCATED if reply.is_truncated else Reason.NO_ANSWER
