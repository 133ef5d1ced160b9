import os
import subprocess
from pathlib import Path

import pytest

from ming_eval import manifest as manifests
from ming_eval.errors import DataError
from ming_eval.manifest import Git, git_state, redacted_command, this_host, versions, with_servers_of
from tests.ming_eval.factories import make_manifest, make_plan


@pytest.mark.parametrize(
    ("typed", "kept"),
    [
        (["sweep", "--header", "X-Key: s3cret"], ["sweep", "--header", "X-Key: ***"]),
        (["sweep", "--header=X-Key: s3cret"], ["sweep", "--header=X-Key: ***"]),
        (["sweep", "--header", "s3cret"], ["sweep", "--header", "***"]),
        (["--backend", "a=http://me:s3cret@host:1/v1"], ["--backend", "a=http://host:1/v1"]),
        (["--backend", "a=http://host/v1?key=s3cret#x"], ["--backend", "a=http://host/v1"]),
        (["--backend", "a=http://host/v1", "--seed", "3"], ["--backend", "a=http://host/v1", "--seed", "3"]),
        (["--api-key-env", "MY_KEY"], ["--api-key-env", "MY_KEY"]),
    ],
)
def test_command_line_is_kept_without_secrets(typed: list[str], kept: list[str]) -> None:
    assert redacted_command(typed) == ("ming-eval", *kept)


@pytest.mark.parametrize(
    "began",
    [
        ["--backend", "s=http://a:1", "--limit", "4", "--model=old", "--header", "X: ***", "--out", "r"],
        ["--limit", "4", "--backend=s=http://a:1", "--backend", "t=http://c", "--out", "r"],
        ["--model", "ming", "--limit", "4", "--out", "r", "--", "--tp", "4"],
    ],
)
def test_a_command_names_the_servers_that_were_asked_last(began: list[str]) -> None:
    now = ["ming-eval", "accuracy", "--resume", "r/1", "--backend", "s=http://b:2", "--limit", "9", "--dialect=vllm"]
    assert with_servers_of(["ming-eval", "accuracy", "mmlu", *began], now) == (
        *("ming-eval", "accuracy", "mmlu", "--limit", "4", "--out", "r"),
        *("--backend", "s=http://b:2", "--dialect=vllm"),
    )


def test_command_can_be_pasted_into_a_shell() -> None:
    assert manifests.command_line(["ming-eval", "--header", "X-Key: ***"]) == "ming-eval --header 'X-Key: ***'"


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    manifest = make_manifest(make_plan())
    manifests.write(manifest, tmp_path)
    assert manifests.read(tmp_path) == manifest


def test_a_folder_without_manifest_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"manifest\.json"):
        manifests.read(tmp_path)


def test_git_state_of_a_tracked_file_and_of_one_that_is_not(tmp_path: Path) -> None:
    def git(*args: str) -> str:
        names = {f"GIT_{who}_{what}": "x" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        command = ["git", "-C", str(tmp_path), *args]
        return subprocess.run(
            command, env=os.environ | names, check=True, capture_output=True, text=True
        ).stdout.strip()

    tracked, untracked = tmp_path / "tracked.py", tmp_path / "untracked.py"
    tracked.touch()
    git("init", "-q")
    git("add", "tracked.py")
    git("commit", "-q", "-m", "one")
    commit = git("rev-parse", "HEAD")
    assert git_state(tracked) == Git(commit, dirty=False)
    untracked.touch()
    assert git_state(tracked) == Git(commit, dirty=True)
    assert git_state(untracked) is None


def test_host_and_versions_are_those_of_this_process() -> None:
    host = this_host()
    assert 1 <= host.num_usable_cpus <= host.num_cpus == os.cpu_count()
    assert host.memory_bytes is not None
    assert versions()["python"] in host.python
    assert versions()["ming-eval"]
