"""Packages that only some suites need: imported when they are needed, with an error that says how to get them."""

from __future__ import annotations

import importlib
from types import ModuleType

from ming_eval.errors import UsageError


def require(module: str, *, purpose: str) -> ModuleType:
    """The module, imported.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as exc:
        package = module.partition(".")[0]
        raise UsageError(f"{purpose} needs {package}: run `pip install 'ming-eval[suites]'`") from exc
