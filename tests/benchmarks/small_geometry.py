"""`python -m tests.benchmarks.small_geometry FOLDER`: a model for rehearsals of what runs on GPUs, from the tiny one.

Like the released geometry it has a configuration and a tokenizer, no weights and no talker. Its experts are wide enough
for every format on two ranks.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from engine.released import cut_layers
from engine.tiny import ensure_snapshot

NUM_LAYERS, EXPERT_WIDTH = 4, 256


def main(folder: str) -> None:
    """Write it into `folder`, which must not exist."""
    path = cut_layers(ensure_snapshot(), NUM_LAYERS, Path(folder)) / "config.json"
    tree = json.loads(path.read_text(encoding="utf-8"))
    tree["llm_config"]["moe_intermediate_size"] = EXPERT_WIDTH
    path.write_text(json.dumps(tree), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
