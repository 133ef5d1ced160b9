"""`ming-eval doctor` against the bundled engine with its embedded model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ming_eval.cli import app
from tests.end_to_end.server import running_server


@pytest.mark.slow
def test_the_bundled_engine_leaves_nothing_unmeasurable(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        result = CliRunner().invoke(app, ["doctor", server.url, "--json", "-"])
    assert result.exit_code == 0, result.output
    seen = json.loads(result.stdout)
    assert (seen["dialect"], seen["not_measurable"]) == ("ming", [])
    assert {finding["name"]: finding["status"] for finding in seen["findings"] if finding["status"] != "ok"} == {}
