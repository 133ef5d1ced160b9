"""Who may import whom. Arrows point one way, so that a part can be read, tested and replaced on its own."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Each part of the engine may import itself, the open modules, and what is listed; goldens join everything.
ENGINE_OPEN = {
    *("child", "config", "environment", "errors", "grammar", "ipc", "model_config", "parallel", "quantised", "source"),
    "talker_config",
}
ENGINE_PARTS: dict[str, set[str]] = {
    "core": set(),
    "kernels": set(),
    "layers": {"kernels"},
    "models": {"layers", "kernels"},
    "weights": set(),
    "inputs": {"core"},
    "server": {"inputs", "core"},
    "peers": {"kernels"},
    "runtime": {"models", "weights", "core", "layers", "kernels", "inputs", "peers"},
    "stages": {"models", "weights", "core", "inputs", "layers"},
    "tiny": {"inputs"},
    "hub": set(),
}

# A module of the harness imports only from lower rows, or from its own.
HARNESS_ROWS = (
    {"types", "errors", "media"},
    {"targets", "config_file"},
    {"client"},
    {"metrics"},
    {"results"},
    {"accuracy_results"},
    {"worker_files"},
    {"run_folder", "manifest"},
    {"evals", "report", "launch"},
    {"load", "compare", "coverage"},
    {"doctor"},
    {"commands"},
    {"cli"},
)

ONE_PLACE = {
    "datasets": ("ming_eval/evals/",),
    "pandas": ("ming_eval/evals/", "ming_eval/report/"),
    "llguidance": ("engine/grammar.py", "engine/runtime/constraint.py"),
    "transformers": ("engine/inputs/",),
    "triton": ("engine/kernels/",),
}


def modules(package: str) -> Iterator[Path]:
    return (ROOT / package).rglob("*.py")


@cache
def imports(path: Path) -> tuple[str, ...]:
    """Dotted names that a file imports anywhere in it."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the direction"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def part(path: Path) -> str:
    """`engine/core/loop.py` -> `core`, `ming_eval/cli.py` -> `cli`."""
    return path.relative_to(ROOT).parts[1].removesuffix(".py")


def breaches(package: str) -> Iterator[tuple[str, str]]:
    """(file, part of the same package that it imports)."""
    for path in modules(package):
        for name in imports(path):
            pieces = name.split(".")
            if pieces[0] == package and len(pieces) > 1 and pieces[1] != part(path):
                yield str(path.relative_to(ROOT)), pieces[1]


@pytest.mark.parametrize("name", sorted(ENGINE_PARTS))
def test_engine_arrows(name: str) -> None:
    allowed = ENGINE_PARTS[name] | ENGINE_OPEN
    assert [b for b in breaches("engine") if part(ROOT / b[0]) == name and b[1] not in allowed] == []


def test_harness_arrows() -> None:
    row = {name: i for i, names in enumerate(HARNESS_ROWS) for name in names}
    for file, imported in breaches("ming_eval"):
        importer = part(ROOT / file)
        if importer != "__init__":
            assert {importer, imported} <= row.keys(), f"{file}: give {importer} and {imported} a row in HARNESS_ROWS"
            assert row[imported] < row[importer], f"{file} imports {imported}"


def test_harness_never_imports_engine_or_torch() -> None:
    for path in modules("ming_eval"):
        assert {name.split(".")[0] for name in imports(path)}.isdisjoint({"engine", "torch", "triton"}), path


def test_engine_never_imports_the_harness() -> None:
    for path in modules("engine"):
        assert "ming_eval" not in {name.split(".")[0] for name in imports(path)}, path


def test_core_is_standard_library_only() -> None:
    for path in modules("engine/core"):
        outside = {name.split(".")[0] for name in imports(path)} - sys.stdlib_module_names - {"engine"}
        assert outside == set(), path


@pytest.mark.parametrize("library", sorted(ONE_PLACE))
def test_large_libraries_have_one_place(library: str) -> None:
    for package in ("ming_eval", "engine"):
        for path in modules(package):
            file = str(path.relative_to(ROOT))
            if not file.startswith(ONE_PLACE[library]):
                assert library not in {name.split(".")[0] for name in imports(path)}, file


# Calls that unpickle what arrives, or run what a checkpoint brings.
_UNPICKLE = (
    *("torch.load(", "allow_pickle=True", "trust_remote_code=True"),
    *("broadcast_object_list(", "all_gather_object(", "gather_object(", "scatter_object_list(", "recv_object_list("),
)


def test_no_pickle() -> None:
    """Nothing that arrives in a process can be code."""
    for package in ("ming_eval", "engine"):
        for path in modules(package):
            names = set(imports(path))
            assert names.isdisjoint({"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "torch.load"}), (
                path
            )
            assert not [name for name in names if name.startswith(("multiprocessing.", "torch.multiprocessing"))], path
            source = path.read_text(encoding="utf-8")
            for call in _UNPICKLE:
                assert call not in source, f"{path}: {call}"
