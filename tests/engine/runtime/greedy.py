"""`python -m tests.engine.runtime.greedy CONFIG`: greedy tokens of a few prompts, as JSON by request.

CONFIG holds the fields of `EngineConfig` as a JSON object.
"""

from __future__ import annotations

import json
import sys

from engine.child import leave
from engine.config import EngineConfig
from engine.runtime.start import start_engine
from tests.engine.runtime.helpers import text_request, tokens


def main() -> int:
    """Prints the tokens on standard output."""
    _, loop = start_engine(EngineConfig(**json.loads(sys.argv[1])))
    requests = [text_request(i, length, max_tokens=24) for i, length in enumerate([1, 9, 17, 40, 90], start=1)]
    print(json.dumps(tokens(loop, requests)))
    return 0


if __name__ == "__main__":
    leave(main())
