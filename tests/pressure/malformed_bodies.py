"""JSON bodies that are wrong: values that the contract does not ask for, and bytes that a parser does not expect."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

_CHAT: dict[str, Any] = {
    "model": None,
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
    ],
    "max_tokens": 2,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 10,
    "min_p": 0.1,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.5,
    "repetition_penalty": 1.1,
    "seed": 3,
    "stop": ["xyz"],
    "stop_token_ids": [5],
    "min_tokens": 1,
    "n": 2,
    "logprobs": True,
    "top_logprobs": 2,
    "logit_bias": {"7": 1.5},
    "stream": True,
    "stream_options": {"include_usage": True},
    "modalities": ["text"],
    "audio": {"voice": "x", "format": "wav"},
    "response_format": {"type": "text"},
    "chat_template_kwargs": {"enable_thinking": False},
    "reasoning_effort": "low",
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
    "tool_choice": "none",
}
_COMPLETION: dict[str, Any] = {
    "prompt": [[1, 2, 3], "text", "more"],
    "max_tokens": 2,
    "temperature": 1.0,
    "logprobs": 2,
    "echo": True,
    "return_token_ids": True,
    "n": 2,
    "stream": False,
}
_SPEECH: dict[str, Any] = {
    "input": "Hi.",
    "voice": "x",
    "response_format": "pcm",
    "speed": 1.0,
    "stream": True,
    "stream_format": "sse",
    "instructions": "",
    "language": "en",
    "max_new_tokens": 2,
    "ref_audio": None,
}
_BODIES: Mapping[str, dict[str, Any]] = {
    "/v1/chat/completions": _CHAT,
    "/v1/completions": _COMPLETION,
    "/v1/audio/speech": _SPEECH,
    "/tokenize": {"prompt": "text", "add_special_tokens": True},
    "/detokenize": {"tokens": [1, 2, 3]},
}
_PATHS = (*["/v1/chat/completions"] * 4, *["/v1/completions"] * 3, "/v1/audio/speech", "/tokenize", "/detokenize")
_FORBIDDEN = ("chat_template", "prompt_embeds", "logits_processors", "functions", "best_of", "suffix", "prediction")
_JUNK: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e308, -1e308, 1e-320),
    *(2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**30, -(2**63), -(10**40)),
    *("", " ", "\0", "a" * 300, "\ud800", "\u202e\u0000\x1b[31m", "🜁" * 50, "nan", "-1", "../../etc/passwd"),
    *("data:image/png;base64,", "file:///etc/passwd", "http://169.254.169.254/", "<|role_end|>", "${jndi:x}", "%s%n"),
    *([], {}, [None], [[]], {"": ""}, {"type": "text"}, {"type": []}, [1, "x", None], [[1], [2**40]], [-1] * 40),
    *(
        {"__class__": "x"},
        {"a": {"b": {"c": [{}]}}},
        ["x" * 300] * 17,
        list(range(300)),
        {str(n): n for n in range(50)},
    ),
)


def path_of(random: Random) -> str:
    """A route that takes a body, by weight."""
    return random.choice(_PATHS)


def body_of(path: str) -> bytes:
    """A whole and valid body of a route."""
    return encode(_BODIES[path])


def mutated_body(random: Random, path: str) -> bytes:
    """Valid JSON with one to three faults in it."""
    return encode(_mutated(random, path))


def _mutated(random: Random, path: str) -> dict[str, Any]:
    body = copy.deepcopy(_BODIES[path])
    if random.random() < 0.7:  # few fields: the fault is reached instead of the first of many
        needed = {"messages", "prompt", "input", "tokens", "max_tokens", "max_new_tokens"}
        body = {name: value for name, value in body.items() if name in needed or random.random() < 0.2}
    for _ in range(random.randint(1, 3)):
        _mutate(random, body)
    return body


def _mutate(random: Random, body: dict[str, Any]) -> None:
    """One fault somewhere in the tree."""
    node, key = random.choice(list(_places(body)))
    fault = random.randrange(5)
    if fault == 0:
        del node[key]
    elif fault == 1:
        node[key] = [node[key]]
    elif fault == 2 and isinstance(node, dict):
        node[random.choice((*_FORBIDDEN, "unknown", "\u0000", "a" * 500))] = copy.deepcopy(random.choice(_JUNK))
    else:
        node[key] = copy.deepcopy(random.choice(_JUNK))


def _places(node: Any) -> Sequence[tuple[Any, Any]]:
    """Every (container, key) of a tree."""
    keys = node.keys() if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
    return [(node, key) for key in keys] + [place for key in keys for place in _places(node[key])] or [({"x": 0}, "x")]


def encode(value: Any) -> bytes:
    return json.dumps(value).encode()


def broken(random: Random, data: bytes) -> bytes:
    """Any bytes with a fault: cut off, overwritten, flipped, nested deep, or with something that does not belong."""
    at = random.randrange(len(data) + 1)
    piece = random.choice(_PIECES)
    fault = random.randrange(6)
    if fault == 0:
        return data[:at]
    if fault == 1:
        return data[:at] + piece + data[at:]
    if fault == 2:
        return data[:at] + piece + data[at + len(piece) :]
    if fault == 3:
        return bytes(byte ^ (1 << random.randrange(8)) if random.random() < 0.02 else byte for byte in data)
    if fault == 4:
        depth = random.choice((60, 64, 65, 200, 5000))
        return data[:-1] + b', "x": ' + random.choice((b"[", b'{"a":')) * depth + b"}"
    return data + piece


_PIECES = (
    *(
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"-0",
        b"01",
        b"1e999",
        b"1e-999",
        b"0x10",
        b"'",
        b'"',
        b"\\",
        b"\\u",
        b"\\ud800",
    ),
    *(
        b"\x00",
        b"\xff",
        b"\xc3",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
        b"\xf4\x90\x80\x80",
        b"//",
        b"/*",
        b",",
        b":",
        b"}",
        b"{}",
    ),
    *(b"[" * 70, b"]" * 70, b"null", b"true", b"\r\n\r\n", b'{"messages": []}', b'"a": 1,', b"9" * 400, b" " * 1000),
)
