"""ONNX models of a few hundred bytes, written by hand: an ear that tells low from high, a voice print of the spectrum.

Fields are numbered as in onnx.proto (ModelProto and what it holds).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

_FLOAT, _INT64 = 1, 7
_NUM_MELS = 80


def write_ear(folder: Path) -> Path:
    """A CTC recogniser that hears `low` or `high`: which half of the mel bands holds more energy."""
    folder.mkdir()
    sign = np.where(np.arange(_NUM_MELS) < _NUM_MELS // 2, 1.0, -1.0)
    weights = np.stack([0 * sign, sign, -sign], axis=1).astype(np.float32)  # blank, low, high
    graph = _graph(
        [_node("MatMul", ["x", "w"], ["log_probs"]), _node("Identity", ["x_lens"], ["log_probs_lens"])],
        inputs=[_value("x", _FLOAT, ["N", "T", _NUM_MELS]), _value("x_lens", _INT64, ["N"])],
        outputs=[_value("log_probs", _FLOAT, ["N", "T", 3]), _value("log_probs_lens", _INT64, ["N"])],
        weights=[_tensor("w", weights)],
    )
    (folder / "model.onnx").write_bytes(_model(graph, {"model_type": "zipformer2_ctc", "version": "1"}))
    (folder / "tokens.txt").write_text("<blk> 0\n▁low 1\n▁high 2\n", encoding="utf-8")
    return folder


def write_voice_print(path: Path) -> Path:
    """A speaker encoder whose embedding is the mean spectrum."""
    mean = _node("ReduceMean", ["feats"], ["embs"], {"axes": [1], "keepdims": 0})
    graph = _graph(
        [mean],
        inputs=[_value("feats", _FLOAT, ["N", "T", _NUM_MELS])],
        outputs=[_value("embs", _FLOAT, ["N", _NUM_MELS])],
        weights=[],
    )
    facts = {
        "framework": "wespeaker",
        "language": "English",
        "url": "",
        "comment": "tiny",
        "sample_rate": "16000",
        "output_dim": str(_NUM_MELS),
        "normalize_samples": "1",
        "feature_normalize_type": "",
    }
    path.write_bytes(_model(graph, facts))
    return path


def _varint(value: int) -> bytes:
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _model(graph: bytes, facts: Mapping[str, str]) -> bytes:
    pairs = b"".join(_bytes(14, _bytes(1, key) + _bytes(2, value)) for key, value in facts.items())
    return _number(1, 8) + _bytes(7, graph) + _bytes(8, _bytes(1, "") + _number(2, 13)) + pairs


def _graph(
    nodes: Sequence[bytes], *, inputs: Sequence[bytes], outputs: Sequence[bytes], weights: Sequence[bytes]
) -> bytes:
    parts = [(1, nodes), (5, weights), (11, inputs), (12, outputs)]
    return b"".join(_bytes(field, part) for field, each in parts for part in each) + _bytes(2, "tiny")


def _node(
    kind: str, inputs: Sequence[str], outputs: Sequence[str], attributes: Mapping[str, object] | None = None
) -> bytes:
    names = b"".join(_bytes(1, name) for name in inputs) + b"".join(_bytes(2, name) for name in outputs)
    return (
        names
        + _bytes(4, kind)
        + b"".join(_bytes(5, _attribute(name, each)) for name, each in (attributes or {}).items())
    )


def _attribute(name: str, value: object) -> bytes:
    if isinstance(value, int):
        return _bytes(1, name) + _number(3, value) + _number(20, 2)
    assert isinstance(value, list)
    return _bytes(1, name) + b"".join(_number(8, each) for each in value) + _number(20, 7)


def _value(name: str, dtype: int, shape: Sequence[int | str]) -> bytes:
    sizes = b"".join(_bytes(1, _number(1, size) if isinstance(size, int) else _bytes(2, size)) for size in shape)
    return _bytes(1, name) + _bytes(2, _bytes(1, _number(1, dtype) + _bytes(2, sizes)))


def _tensor(name: str, values: np.ndarray) -> bytes:
    sizes = b"".join(_number(1, size) for size in values.shape)
    return sizes + _number(2, _FLOAT) + _bytes(8, name) + _bytes(9, values.tobytes())
