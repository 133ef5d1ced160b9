"""Write the embedded model into the user's cache, once, and check it before each use."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from engine.errors import ConfigError
from engine.tiny import talker
from engine.tiny.architecture import CONFIG, PREPROCESSOR
from engine.tiny.spec import TensorSpec, tensor_values
from engine.tiny.vocabulary import special_tokens_map, tokenizer_config, tokenizer_json
from engine.tiny.weights import tensor_specs

# Of every file's name and bytes. A changed generator changes it, and with it the directory; a test says the new value.
SNAPSHOT_DIGEST = "a6566f50f1850224d0fee6031cdb03462fea559e5fe3c54058f8d10e58138cb7"

_MAX_SHARD_BYTES = 16 << 20


def default_cache_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """`MING_EVAL_CACHE`, or this program's folder in the user's cache directory."""
    if chosen := environ.get("MING_EVAL_CACHE"):
        return Path(chosen).expanduser()
    if base := environ.get("XDG_CACHE_HOME"):
        return Path(base) / "ming-eval"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "ming-eval"


def ensure_snapshot(cache_dir: Path | None = None) -> Path:
    """The directory of the embedded model, written first if it is not there or not intact (about a second, 43 MB).

    Several processes may ask at once: each writes its own copy aside and the first to finish puts it in place.

    Raises:
        ConfigError: the cache directory cannot be written.
    """
    cache = cache_dir or default_cache_dir()
    target = cache / f"ming-flash-omni-2.0-tiny-{SNAPSHOT_DIGEST[:12]}"
    try:
        if not _is_intact(target):
            cache.mkdir(parents=True, exist_ok=True)
            _install(target)
    except OSError as error:
        raise ConfigError(
            f"cannot keep the embedded model in {cache} ({error.strerror}); "
            "choose another directory with --cache-dir or MING_EVAL_CACHE"
        ) from error
    return target


def write_snapshot(directory: Path) -> None:
    """Write all files of the snapshot into an existing directory."""
    _write_json(directory / "config.json", CONFIG)
    _write_json(directory / "preprocessor_config.json", PREPROCESSOR)
    _write_json(directory / "tokenizer.json", tokenizer_json())
    _write_json(directory / "tokenizer_config.json", tokenizer_config())
    _write_json(directory / "special_tokens_map.json", special_tokens_map())
    shards = list(_shards(tensor_specs()))
    weight_map: dict[str, str] = {}
    for number, specs in enumerate(shards, start=1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write_safetensors(directory / name, specs)
        weight_map |= {spec.name: name for spec in specs}
    total = sum(spec.num_bytes for specs in shards for spec in specs)
    _write_json(
        directory / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map}
    )
    _write_talker(directory / "talker")


def _write_talker(directory: Path) -> None:
    for folder in (directory, directory / "llm", directory / "vae"):
        folder.mkdir()
    _write_json(directory / "config.json", talker.CONFIG)
    _write_json(directory / "llm" / "config.json", talker.LLM)
    _write_json(directory / "llm" / "tokenizer.json", talker.tokenizer())
    _write_json(directory / "vae" / "config.json", talker.VAE)
    _write_safetensors(directory / "model.safetensors", talker.talker_specs())
    _write_safetensors(directory / "vae" / "model.safetensors", talker.vae_specs())


def snapshot_digest(directory: Path) -> str:
    """SHA-256 over the names and contents of all files under a directory."""
    whole = hashlib.sha256()
    files = {file.relative_to(directory).as_posix(): file for file in directory.rglob("*") if file.is_file()}
    for name, file in sorted(files.items()):
        with file.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        whole.update(f"{content}  {name}\n".encode())
    return whole.hexdigest()


def _is_intact(target: Path) -> bool:
    return target.is_dir() and snapshot_digest(target) == SNAPSHOT_DIGEST


def _install(target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".tmp-", dir=target.parent) as aside:
        fresh = Path(aside) / "snapshot"
        fresh.mkdir()
        write_snapshot(fresh)
        assert snapshot_digest(fresh) == SNAPSHOT_DIGEST, "the generator changed: SNAPSHOT_DIGEST must follow"
        if not _move_into_place(fresh, target) and not _is_intact(target):
            with contextlib.suppress(FileNotFoundError):  # another process is doing the same
                target.rename(Path(aside) / "broken")  # removed with the directory it is moved to
            _move_into_place(fresh, target)


def _move_into_place(fresh: Path, target: Path) -> bool:
    """Rename, unless another process was first."""
    try:
        fresh.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        return False
    return True


def _write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _shards(specs: list[TensorSpec]) -> Iterator[list[TensorSpec]]:
    """Neighbouring tensors, up to the size of a shard."""
    shard: list[TensorSpec] = []
    for spec in specs:
        if sum(held.num_bytes for held in shard) + spec.num_bytes > _MAX_SHARD_BYTES:
            yield shard
            shard = []
        shard.append(spec)
    yield shard


def _write_safetensors(file: Path, specs: list[TensorSpec]) -> None:
    """The format is small, and the library's order of tensors is its own business: here every byte is fixed."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for spec in specs:
        start, end = end, end + spec.num_bytes
        header[spec.name] = {"dtype": "F32", "shape": spec.shape, "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with file.open("wb") as stream:
        stream.write(len(encoded).to_bytes(8, "little") + encoded)
        for spec in specs:
            stream.write(tensor_values(spec).astype("<f4", copy=False).tobytes())
