"""Jinja chat templates in a sandbox: the only way a snapshot's own template is ever run.

`render` shuts the template in, `render_isolated` also bounds its time and memory by a process of its own.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

_MEMORY_BYTES = 1 << 30


def render(template: str, messages: Sequence[Mapping[str, Any]], **variables: Any) -> str:
    """Render as the hub's libraries do: trimmed blocks, plain JSON dumps, `raise_exception`.

    Raises:
        jinja2.TemplateError: the template is not valid, or refused the messages.
        TypeError: the template did something with the messages that their types do not allow.
    """
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json  # Jinja's own escapes for HTML and sorts keys
    environment.globals["raise_exception"] = _raise
    return environment.from_string(template).render(messages=messages, **variables)


def render_isolated(template: str, messages: Sequence[Mapping[str, Any]], timeout_s: float, **variables: Any) -> str:
    """`render` in a process that cannot take more than `timeout_s` seconds and 1 GiB.

    Raises:
        subprocess.SubprocessError: the template failed, or took too much.
    """
    job = json.dumps({"template": template, "messages": messages, **variables})
    command = [sys.executable, "-P", __file__]  # -P: this folder's file names must not shadow packages
    done = subprocess.run(command, input=job.encode(), capture_output=True, timeout=timeout_s, check=True)
    return done.stdout.decode()


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _main() -> None:
    if sys.platform == "linux":  # elsewhere the limit is refused or not kept
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    sys.stdout.buffer.write(render(**json.load(sys.stdin.buffer)).encode())


if __name__ == "__main__":
    _main()
