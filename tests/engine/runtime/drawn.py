"""Geometries of full width and few layers, whose weights are drawn: kernels take there what they take when serving."""

from __future__ import annotations

import json
from pathlib import Path

from engine.released import CONFIG


def full_width(folder: Path, num_layers: int) -> Path:
    """The released geometry with so many layers and no towers, written to `folder`; the first layer is dense."""
    tree = CONFIG | {"llm_config": CONFIG["llm_config"] | {"num_hidden_layers": num_layers}}
    tree = {key: value for key, value in tree.items() if key not in ("vision_config", "audio_config")}
    (folder / "config.json").write_text(json.dumps(tree), encoding="utf-8")
    return folder
