"""Opening a checkpoint: names, shapes and lazily read slices of safetensors files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from engine.errors import WeightError
from engine.weights.identity import checkpoint_digest

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class LazyTensor:
    """A tensor still on disk; indexing reads just that slice through the memory map."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    source: Any

    def __getitem__(self, index: Any) -> Tensor:
        tensor: Tensor = self.source[index]
        return tensor


@dataclass(frozen=True)
class Checkpoint:
    """The safetensors files of one directory: those of the index, else the one of small models, else all there are."""

    path: Path

    @cached_property
    def files(self) -> dict[str, str]:
        """Tensor name -> file name.

        Raises:
            WeightError: no such file is there, the index is damaged, or two files hold the same tensor.
        """
        index = self.path / INDEX
        if index.is_file():
            return self._read_index(index)
        if (self.path / SINGLE).is_file():
            return self._list([SINGLE])
        loose = sorted(file.name for file in self.path.glob("*.safetensors"))
        if not loose:
            raise WeightError(
                f"{self.path}: neither {INDEX} nor {SINGLE} found; point --model at the snapshot directory"
            )
        return self._list(loose)

    def _list(self, file_names: list[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for file_name in file_names:
            with self._open(file_name) as file:
                names = set(file.keys())
            if twice := sorted(names & found.keys()):
                raise WeightError(f"{self.path}: both {found[twice[0]]} and {file_name} hold {twice[0]}; remove one")
            found |= dict.fromkeys(names, file_name)
        return found

    @staticmethod
    def _read_index(index: Path) -> dict[str, str]:
        try:
            weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        except (ValueError, KeyError, TypeError):
            raise WeightError(f"{index}: no weight_map in it; fetch the file again") from None
        outside = sorted({f for f in weight_map.values() if "/" in f or not f.endswith(".safetensors")})
        if outside:
            raise WeightError(f"{index}: names {outside[0]!r}; only safetensors files beside the index are read")
        return dict(weight_map)

    def missing_files(self) -> list[str]:
        """Files that the index names and the directory lacks."""
        return sorted(f for f in set(self.files.values()) if not (self.path / f).is_file())

    def tensors(self) -> Iterator[LazyTensor]:
        """Every tensor, file by file.

        Raises:
            WeightError: a file is missing or damaged, or does not hold what the index says.
        """
        missing = self.missing_files()
        if missing:
            raise WeightError(f"{self.path}: {len(missing)} weight files are missing, the first is {missing[0]}")
        by_file: dict[str, list[str]] = {}
        for name, file_name in self.files.items():
            by_file.setdefault(file_name, []).append(name)
        for file_name, names in sorted(by_file.items()):
            with self._open(file_name) as file:
                absent = sorted(set(names) - set(file.keys()))
                if absent:
                    raise WeightError(f"{file_name}: the index promises {absent[0]}, which is not in the file")
                for name in names:
                    source = file.get_slice(name)
                    dtype = DTYPES.get(source.get_dtype())
                    if dtype is None:
                        raise WeightError(f"{name}: dtype {source.get_dtype()} is not one this engine reads")
                    yield LazyTensor(name, tuple(source.get_shape()), dtype, source)

    def stored_dtype(self, name: str) -> torch.dtype:
        """The dtype in which tensor `name` is stored.

        Raises:
            WeightError: the checkpoint has no such tensor.
        """
        if name not in self.files:
            raise WeightError(f"{self.path}: no tensor {name}; this is not a Ming checkpoint")
        with self._open(self.files[name]) as file:
            return DTYPES[file.get_slice(name).get_dtype()]

    def _open(self, file_name: str) -> Any:
        try:
            return safe_open(self.path / file_name, framework="pt")
        except (SafetensorError, OSError) as error:
            raise WeightError(f"{self.path / file_name}: cannot be read as safetensors ({error})") from None

    def digest(self) -> str:
        """Identity of weights, tokenizer and configuration; see `checkpoint_digest`."""
        return checkpoint_digest(self.path)
