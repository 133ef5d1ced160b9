"""The command line itself: help, names, usage errors, and that nothing heavy is imported for it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from ming_eval.cli import app

COMMANDS = [
    [],
    ["serve"],
    ["sweep"],
    ["runs"],
    ["report"],
    ["list"],
    ["model"],
    ["model", "inspect"],
    ["model", "verify"],
]


def invoke(*words: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, list(words))
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_help_has_examples(command: list[str]) -> None:
    code, out, _ = invoke(*command, "--help")
    assert code == 0
    assert "Examples:" in out
    assert f"ming-eval {' '.join(command)}".strip() in out.partition("Examples:")[2]


def test_serve_help_names_the_main_options_of_the_engine() -> None:
    _, out, _ = invoke("serve", "--help")
    for option in ("host", "port", "model", "tokenizer", "tp", "device", "dtype", "served-model-name"):
        assert f"--{option} " in out
    for option in ("skip-tokenizer", "api-key-file", "max-queue", "drain-timeout"):
        assert f"--{option} " in out


def test_help_of_the_engines_options_is_true() -> None:
    """What `ming-eval serve --help` says exists in the engine's own parser."""
    _, ours, _ = invoke("serve", "--help")
    listed = {word for word in ours.partition("Main options:")[2].split() if word.startswith("--")}
    listed -= {"--help", "--revision"}
    engine = subprocess.run([sys.executable, "-m", "engine", "--help"], capture_output=True, text=True, check=True)
    assert {option for option in listed if option not in engine.stdout} == set()


def test_the_command_line_imports_nothing_heavy() -> None:
    code = "import sys, ming_eval.cli; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    heavy = {"torch", "numpy", "aiohttp", "uvloop", "msgspec", "httptools", "asyncio", "rich", "pandas", "engine"}
    assert loaded & heavy == set()
    assert "ming_eval.commands.sweep" in loaded


def test_version_is_that_of_the_package() -> None:
    code, out, _ = invoke("--version")
    assert code == 0
    assert out.startswith("ming-eval 0.")


def test_list_shows_all_names_and_one_kind() -> None:
    _, everything, _ = invoke("list")
    for name in ("chat", "quick", "natural", "openai", "vllm", "sglang", "ming"):
        assert name in everything
    _, profiles, _ = invoke("list", "profiles")
    assert "quick" in profiles
    assert "sglang" not in profiles


def test_list_of_something_unknown_says_what_there_is() -> None:
    code, _, err = invoke("list", "nope")
    assert code == 2
    names = "profiles, prompts, datasets, dialects"
    assert err == f"ming-eval: nothing is called 'nope': choose one of {names}, or leave it out for all\n"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_has_one_block_of_examples(command: list[str]) -> None:
    assert invoke(*command, "--help")[1].count("Examples:") == 1


def test_help_of_models_names_the_options_that_are_passed_on() -> None:
    for command in (("model",), ("model", "inspect")):
        _, out, _ = invoke(*command, "--help")
        for option in ("--tp", "--dtype", "--json", "--memory"):
            assert option in out, command


def test_list_as_json() -> None:
    code, out, err = invoke("list", "prompts", "--json", "-")
    assert code == 0
    prompts, *others = json.loads(out)["prompts"]
    assert prompts["name"] == "chat"
    assert int(prompts["prompts"]) >= 120
    assert [each["name"] for each in others] == ["image", "audio", "video", "speech"]
    assert "chat" in err  # the table makes room for the JSON


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--concurrency", "8..1"], "bad concurrency '8..1'"),
        (["--profile", "nope"], "unknown profile 'nope'"),
        (["--backend", "a=ftp://host"], "ftp://"),
        (["--backend", "a=localhost:8000"], "http://"),
        (["--backend", "a b=http://host"], "bad backend name 'a b'"),
        (["--backend", "a=http://x", "--backend", "a=http://y"], "two backends have one name"),
        (["--backend", "a=http://x", "--header", "nope"], "without a colon"),
        (["--backend", "a=http://x", "--api-key-env", "NO_SUCH_VARIABLE_HERE"], "NO_SUCH_VARIABLE_HERE"),
        (["--backend", "a=http://x", "--dialect", "nope"], "unknown dialect 'nope'"),
        (["--backend", "a=http://x", "--dialect", "a=vllm,a=sglang"], "once for each backend"),
        (["--backend", "a=http://x", "--", "--tp", "2"], "bundled engine"),
        (["http://localhost:8000"], "--backend NAME=URL"),
        (["--requests", "0"], "--requests"),
        (["--max-error-rate", "5"], "--max-error-rate"),
        (["--no-such-option"], "--no-such-option"),
    ],
)
def test_usage_errors_exit_2_and_say_what_is_wrong(words: list[str], complaint: str) -> None:
    code, out, err = invoke("sweep", *words)
    assert code == 2
    assert complaint in err
    assert out == ""
