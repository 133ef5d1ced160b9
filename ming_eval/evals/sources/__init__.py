"""Rows of published sets whose columns do not map one to one -> rows that `[fields]` can name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ming_eval.evals.sources.ifeval import instructions
from ming_eval.evals.sources.mmmu import subject_and_kind

LOADERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "ifeval": instructions,
    "mmmu": subject_and_kind,
}
