"""Packages that only some suites need: imported when they are needed, with an error that says how to get them."""

from __future__ import annotations

import importlib
from types import ModuleType

from ming_eval.errors import UsageError


def require(module: str, *, purpose: str, extra: str = "suites") -> ModuleType:
    """The module, imported; `extra` is the one of this package that brings it.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as exc:
        package = module.partition(".")[0].replace("_", "-")
        raise UsageError(f"{purpose} needs {package}: run `pip install 'ming-eval[{extra}]'`") from exc
