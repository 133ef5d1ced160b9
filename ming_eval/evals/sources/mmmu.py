"""MMMU: options as a text that holds a list, open questions among the others, the subject only in the id."""

from __future__ import annotations

import re
from typing import Any

from ming_eval.evals.columns import listed


def subject_and_kind(row: dict[str, Any]) -> dict[str, Any]:
    """The row with `kind`, `subject`, and lists where the columns hold texts of lists."""
    is_choice = row["question_type"] == "multiple-choice"
    subject = re.sub(r"^(?:dev|validation|test)_|_\d+$", "", str(row["id"]))
    answer = row["answer"] if is_choice else _accepted(str(row["answer"]))
    kind = "mcq" if is_choice else "text"
    return row | {"kind": kind, "subject": subject, "options": listed(row["options"]), "answer": answer}


def _accepted(answer: str) -> str | tuple[str, ...]:
    """One answer, or several where the text is a list of them."""
    return tuple(map(str, listed(answer))) if answer.startswith("[") else answer
