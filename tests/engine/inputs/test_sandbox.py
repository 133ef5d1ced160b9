from __future__ import annotations

import subprocess

import pytest
from jinja2 import TemplateError
from jinja2.exceptions import SecurityError

from engine.inputs.sandbox import render, render_isolated


def test_json_is_dumped_as_the_hub_does() -> None:
    assert render("{{ messages[0] | tojson }}", [{"b": "<é&'>", "a": 1}]) == '{"b": "<é&\'>", "a": 1}'


def test_templates_can_refuse() -> None:
    with pytest.raises(TemplateError, match="no"):
        render("{{ raise_exception('no') }}", [])


@pytest.mark.parametrize("template", ["{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}"])
def test_templates_reach_neither_python_nor_their_arguments(template: str) -> None:
    with pytest.raises(SecurityError):
        render(template, [])


def test_isolated_rendering_gives_the_same() -> None:
    template = "{{ messages[0].content }}{{ '!' if add_generation_prompt }}"
    assert render_isolated(template, [{"content": "你好\n"}], 30.0, add_generation_prompt=True) == "你好\n!"


@pytest.mark.slow
def test_endless_template_is_stopped() -> None:
    endless = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    with pytest.raises(subprocess.TimeoutExpired):
        render_isolated(endless, [], 0.5)


def test_greedy_template_is_stopped() -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        render_isolated("{{ ('x' * 4000000000) | length }}", [], 30.0)
    assert b"MemoryError" in caught.value.stderr
