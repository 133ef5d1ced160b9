"""Serving text pays nothing for speech."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys
import engine.__main__, engine.runtime.build, engine.runtime.process, engine.server.app, engine.server.serve
speech = ("engine.stages", "engine.talker_config", "engine.weights.speech", "engine.models.talker",
          "engine.models.cfm", "engine.models.dit", "engine.models.qwen2", "engine.models.vae",
          "engine.models.audio_vae", "engine.models.aggregator")
print([name for name in sys.modules if name.startswith(speech)])
"""


@pytest.mark.slow
def test_the_text_path_imports_no_speech_module() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


def test_the_text_front_end_needs_no_torch() -> None:
    """The server's process plans segments without the libraries of the models."""
    script = (
        "import sys, engine.stages.text, engine.stages.segmentation, engine.stages.normalise, engine.stages.captions, "
        "engine.stages.prompt, engine.stages.silence, engine.stages.pcm; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "False"
