"""Answers that must follow a schema: they do, whatever else the engine is doing at the time."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.config import EngineConfig
from engine.core.blocks import BlockManager
from engine.core.loop import EngineLoop
from engine.core.request import FinishReason, GenerationRequest, SchedulerLimits
from engine.core.scheduler import Scheduler
from engine.inputs.tokenizer import Tokenizer
from engine.runtime.build import LoadedEngine, load_engine
from engine.runtime.model_runner import LocalRunner
from tests.engine.runtime.helpers import run, text_request, tokens

pytestmark = pytest.mark.slow  # a real model, several times over

EOS = 2002  # of the embedded model

SCHEMA = {
    "type": "object",
    "properties": {
        "ok": {"type": "boolean"},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
        "kind": {"enum": ["red", "grün", None]},
    },
    "required": ["ok", "count", "kind"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> LoadedEngine:
    model = str(tiny_model)
    return load_engine(EngineConfig(model=model, tokenizer=model, device="cpu", num_threads=1, kv_tokens=4096))


def make_loop(loaded: LoadedEngine, *, overlap: bool, num_blocks: int | None = None) -> EngineLoop:
    blocks = BlockManager(num_blocks or loaded.info.num_blocks, loaded.info.block_size, enable_prefix_cache=False)
    scheduler = Scheduler(SchedulerLimits(512, 16, 1024), blocks)
    return EngineLoop(scheduler, LocalRunner(loaded.runner), overlap=overlap)


def constrained(request_id: int, length: int, schema: object = SCHEMA, **sampling: Any) -> GenerationRequest:
    fields = {"max_tokens": 300, "json_schema": json.dumps(schema), "eos_token_ids": (EOS,)} | sampling
    return text_request(request_id, length, **fields)


def mixed(model: Path) -> list[GenerationRequest]:
    """Free and constrained requests, greedy and drawn, with samples of one prompt among them.

    The untrained model is fond of the white space that JSON may have anywhere, so it is biased against it.
    """
    tokenizer = Tokenizer.load(model)
    blanks = [i for i in range(tokenizer.vocab_size) if tokenizer.token_bytes(i).isspace()]
    bias = tuple((i, -50.0) for i in blanks)
    drawn: dict[str, Any] = {"temperature": 1.5, "presence_penalty": 1.0, "logit_bias": bias}
    return [
        text_request(0, 20, max_tokens=40),
        constrained(1, 12, logit_bias=bias),
        *(replace(constrained(2, 9, seed=n, **drawn), id=2 + n) for n in range(3)),
        text_request(5, 11, max_tokens=30, temperature=1.0, seed=3),
    ]


def check_json(ids: list[int], tokenizer: Tokenizer) -> None:
    assert ids[-1] == tokenizer.eos_token_id
    value = json.loads(tokenizer.decode(ids))
    assert value.keys() == {"ok", "count", "kind"}
    assert isinstance(value["ok"], bool)
    assert value["count"] in range(100)
    assert value["kind"] in ("red", "grün", None)


def relative(found: dict[int, list[int]]) -> list[list[int]]:
    return [found[request_id] for request_id in sorted(found)]


@pytest.fixture(scope="module")
def expected(loaded: LoadedEngine, tiny_model: Path) -> list[list[int]]:
    """Every request on its own, one step at a time."""
    alone = {}
    for request in mixed(tiny_model):
        alone |= tokens(make_loop(loaded, overlap=False), [request])
    return relative(alone)


def test_answers_follow_the_schema(expected: list[list[int]], tiny_model: Path) -> None:
    tokenizer = Tokenizer.load(tiny_model)
    for ids in expected[1:5]:
        check_json(ids, tokenizer)
    assert len({tuple(ids) for ids in expected[2:5]}) == 3  # samples of one prompt differ


@pytest.mark.parametrize("overlap", [False, True])
def test_batch_and_steps_ahead_change_nothing(
    loaded: LoadedEngine, expected: list[list[int]], tiny_model: Path, overlap: bool
) -> None:
    assert relative(tokens(make_loop(loaded, overlap=overlap), mixed(tiny_model))) == expected


@pytest.mark.parametrize("overlap", [False, True])
def test_preemption_changes_nothing(
    loaded: LoadedEngine, expected: list[list[int]], tiny_model: Path, overlap: bool
) -> None:
    loop = make_loop(loaded, overlap=overlap, num_blocks=10)
    assert relative(tokens(loop, mixed(tiny_model))) == expected
    assert loop.stats().preemptions > 0


def test_schema_that_turns_out_too_complex_ends_its_request_alone(loaded: LoadedEngine) -> None:
    """The grammar compiles, and breaks a limit only when tokens are to be allowed."""
    explosive = constrained(1, 5, {"type": "string", "pattern": "^(a?){500}(a){500}$"})
    found = run(make_loop(loaded, overlap=True), [text_request(0, 9), explosive])
    assert found[0][-1].finish is FinishReason.LENGTH
    assert found[1][-1].finish is FinishReason.ERROR
    assert found[1][-1].error


def test_without_a_tokenizer_a_schema_is_refused_by_the_engine(tiny_model: Path) -> None:
    config = EngineConfig(model=str(tiny_model), device="cpu", num_threads=1, kv_tokens=1024)
    (outputs,) = run(load_engine(config).make_loop(), [constrained(0, 5)]).values()
    assert outputs[-1].finish is FinishReason.ERROR


SCRIPT = """
import json, sys
from engine.config import EngineConfig
from engine.runtime.start import build_engine
from pathlib import Path
from tests.engine.runtime.helpers import tokens
from tests.engine.runtime.test_constraint import mixed, relative
config = EngineConfig(
    model=sys.argv[1], tokenizer=sys.argv[1], device="cpu", tp=2, kv_tokens=4096, num_threads=1
)
loop, info = build_engine(config)
print(json.dumps(relative(tokens(loop, mixed(Path(sys.argv[1]))))))
"""


def test_two_ranks_draw_the_same(tiny_model: Path, expected: list[list[int]]) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tiny_model)], capture_output=True, timeout=300, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout) == expected


@pytest.mark.gpu
def test_tokens_on_their_way_from_a_gpu(tiny_model: Path) -> None:
    """Steps ahead of the host: masks wait for tokens that are copied behind the step that drew them."""
    model = str(tiny_model)
    options: dict[str, Any] = {"device": "cuda", "dtype": "float32", "kv_tokens": 4096, "eager": True}
    loaded = load_engine(EngineConfig(model=model, tokenizer=model, **options))
    loaded.runner.prepare_graphs([1, 2, 4, 6])  # as served, but for sizes that never come
    found = [relative(tokens(make_loop(loaded, overlap=overlap), mixed(tiny_model))) for overlap in (False, True)]
    assert found[0] == found[1]
    for ids in found[1][1:5]:
        check_json(ids, Tokenizer.load(tiny_model))
