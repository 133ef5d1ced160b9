from __future__ import annotations

import json

import pytest

from engine.inputs import template_check
from engine.inputs.template_check import CHAT_TEMPLATE, warn_of_foreign_template
from engine.inputs.tokenizer import Tokenizer
from engine.tiny.vocabulary import tokenizer_json


def warnings_for(template: str | None, caplog: pytest.LogCaptureFixture) -> list[str]:
    warn_of_foreign_template(Tokenizer(json.dumps(tokenizer_json()), chat_template=template))
    return [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize("template", [None, CHAT_TEMPLATE, CHAT_TEMPLATE + "{# repackaged #}"])
def test_no_warning_where_the_format_is_the_same(template: str | None, caplog: pytest.LogCaptureFixture) -> None:
    assert warnings_for(template, caplog) == []


def test_one_warning_where_it_differs(caplog: pytest.LogCaptureFixture) -> None:
    (warning,) = warnings_for("{{ messages[0].content }} and more", caplog)
    assert "'Be brief. and more'" in warning
    assert "detailed thinking off" in warning


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% endif %}", "endif"),
        ("{{ strange() }}", "'strange' is undefined"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "more than 0.5 s"),
    ],
)
@pytest.mark.slow
def test_one_warning_where_it_does_not_render(
    template: str, reason: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(template_check, "_TIMEOUT_S", 0.5 if "99999" in template else 30.0)
    (warning,) = warnings_for(template, caplog)
    assert "does not render" in warning
    assert reason in warning
