"""Whether a snapshot's own chat template says what the prompt builder says; asked once, at load."""

from __future__ import annotations

import logging
import subprocess
from pathlib import Path
from typing import Any

from engine.inputs.sandbox import render_isolated
from engine.inputs.templates import render_template
from engine.inputs.tokenizer import Tokenizer

log = logging.getLogger(__name__)

CHAT_TEMPLATE = (Path(__file__).parent / "chat_template.jinja").read_text(encoding="utf-8")

_TIMEOUT_S = 2.0
_PROBE: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "One?"},
    {"role": "assistant", "content": "Two."},
    {"role": "user", "content": "Three?"},
]


def warn_of_foreign_template(tokenizer: Tokenizer) -> None:
    """Log one warning if the snapshot brings a template that renders a conversation differently from this engine."""
    template = tokenizer.chat_template
    if template is None or template == CHAT_TEMPLATE:
        return
    ours = render_template(_PROBE, add_generation_prompt=True)
    try:
        theirs = render_isolated(template, _PROBE, _TIMEOUT_S, add_generation_prompt=True)
    except subprocess.SubprocessError as error:
        log.warning("the snapshot's chat template does not render (%s); the released format is used", _reason(error))
        return
    if theirs != ours:
        log.warning(
            "the snapshot's chat template renders a probe as %r; this engine uses the released format, %r", theirs, ours
        )


def _reason(error: subprocess.SubprocessError) -> str:
    if isinstance(error, subprocess.TimeoutExpired):
        return f"it took more than {_TIMEOUT_S:g} s"
    stderr = error.stderr if isinstance(error, subprocess.CalledProcessError) else b""
    lines = stderr.decode(errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else "no reason given"
