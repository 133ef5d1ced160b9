from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import LocalEntryNotFoundError

from engine import hub
from engine.errors import ConfigError

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": 1_000,
    "model-00001-of-00002.safetensors": 4_000_000_000,
    "model-00002-of-00002.safetensors": 2_000_000_000,
    "talker/model.safetensors": 1_000_000_000,
    "chat_template.jinja": 500,
    "modeling.py": 9_000_000_000,
    "pytorch_model.bin": 9_000_000_000,
}


WANTED = sorted(name for name in FILES if not name.endswith((".py", ".bin")))


class FakeApi:
    """A hub with one repository; `fails` are errors that its two calls raise."""

    def __init__(self, folder: Path, files: dict[str, int] = FILES, **fails: BaseException) -> None:
        self.folder, self.files, self.fails = folder, files, fails
        self.downloads: list[dict[str, Any]] = []

    def model_info(self, repo_id: str, *, revision: str | None, files_metadata: bool) -> Any:
        assert files_metadata, "without it the hub tells no sizes"
        if error := self.fails.get("info"):
            raise error
        siblings = [SimpleNamespace(rfilename=name, size=size) for name, size in self.files.items()]
        return SimpleNamespace(sha=COMMIT, siblings=siblings)

    def snapshot_download(
        self,
        repo_id: str,
        *,
        revision: str | None = None,
        local_files_only: bool = False,
        allow_patterns: list[str] | None = None,
    ) -> str:
        if error := self.fails.get("download"):
            raise error
        self.downloads.append({"revision": revision, "local": local_files_only, "patterns": allow_patterns})
        return str(self.folder)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache on a disk with 10 GB free; the folder itself does not exist yet."""
    folder = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    set_free_space(monkeypatch, 10_000_000_000)
    return folder


def set_free_space(monkeypatch: pytest.MonkeyPatch, num_bytes: int) -> None:
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda folder: SimpleNamespace(free=num_bytes if folder else None))


def unreachable() -> BaseException:
    return hub._TRANSPORT_ERRORS[0]("no route to host")


def test_a_directory_is_taken_as_it_is(tmp_path: Path) -> None:
    api = FakeApi(tmp_path / "elsewhere", info=AssertionError("the hub must not be asked"))
    assert hub.resolve(str(tmp_path), api=api) == tmp_path
    with pytest.raises(ConfigError, match="--revision main is for hub ids"):
        hub.resolve(str(tmp_path), "main", api=api)


@pytest.mark.parametrize("model", ["/no/such/folder", "./here", "one-word", "a/b/c", "https://host/a/b"])
def test_what_is_no_hub_id_is_not_looked_up(model: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such directory, and not a hub id such as owner/name"):
        hub.resolve(model, api=FakeApi(tmp_path, info=AssertionError("the hub must not be asked")))


def test_an_id_that_the_client_refuses_is_not_a_hub_id() -> None:
    with pytest.raises(ConfigError, match="not a hub id such as owner/name"):
        hub.resolve("owner/two--dashes", api=HfApi())


def test_weights_and_text_of_one_commit_are_fetched(
    cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    api = FakeApi(tmp_path)
    with caplog.at_level(logging.INFO):
        assert hub.resolve("owner/name", "main", api=api) == tmp_path
    assert api.downloads == [{"revision": COMMIT, "local": False, "patterns": WANTED}]
    assert f"downloading 5 files of owner/name at {COMMIT}: 7.0 GB" in caplog.text


def test_what_only_draws_images_is_left_out(cache: Path, tmp_path: Path) -> None:
    drawing = {"transformer/model.safetensors": 30_000_000_000, "vae/config.json": 1, "mlp/x.safetensors": 1}
    api = FakeApi(tmp_path, FILES | drawing)
    hub.resolve("owner/name", api=api)
    assert api.downloads[0]["patterns"] == WANTED


def test_too_little_space_is_said_before_the_download(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_free_space(monkeypatch, 6_900_000_000)
    api = FakeApi(tmp_path)
    with pytest.raises(ConfigError, match=r"7\.0 GB to download, 6\.9 GB free in .*hub"):
        hub.resolve("owner/name", api=api)
    assert api.downloads == []


def test_files_in_the_cache_need_no_space(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = cache / "models--owner--name" / "snapshots" / COMMIT
    held.mkdir(parents=True)
    (held / "model-00001-of-00002.safetensors").touch()
    set_free_space(monkeypatch, 3_100_000_000)
    assert hub.resolve("owner/name", api=FakeApi(tmp_path)) == tmp_path
    set_free_space(monkeypatch, 2_900_000_000)
    with pytest.raises(ConfigError, match=r"3\.0 GB to download, 2\.9 GB free"):
        hub.resolve("owner/name", api=FakeApi(tmp_path))


def test_a_repository_without_safetensors_is_refused(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no safetensors files"):
        hub.resolve("owner/name", api=FakeApi(tmp_path, {"pytorch_model.bin": 1, "config.json": 1}))


def test_without_a_connection_the_cached_copy_is_used(
    cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    api = FakeApi(tmp_path, info=unreachable())
    assert hub.resolve("owner/name", "v1", api=api) == tmp_path
    assert api.downloads == [{"revision": "v1", "local": True, "patterns": None}]
    assert "using the cached copy" in caplog.text


def test_without_connection_and_copy_there_is_one_clear_line(cache: Path, tmp_path: Path) -> None:
    api = FakeApi(tmp_path, info=unreachable(), download=LocalEntryNotFoundError("a long story"))
    with pytest.raises(ConfigError, match=r"owner/name: the hub cannot be reached .* and no copy is cached") as caught:
        hub.resolve("owner/name", api=api)
    assert "\n" not in str(caught.value)


def test_a_download_that_stops_says_so(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the download stopped .* run the command again"):
        hub.resolve("owner/name", api=FakeApi(tmp_path, download=unreachable()))


@contextmanager
def refusing_hub(status: int, code: str) -> Iterator[HfApi]:
    """The real client, against a server that refuses everything the way the hub does."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield HfApi(endpoint=f"http://127.0.0.1:{server.server_port}", token=False)
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (404, "RepoNotFound", "no such directory, and no such repository on the hub"),
        (404, "RevisionNotFound", "the hub has no revision v9 of it"),
        (403, "GatedRepo", "access must be asked for on the hub; then give its token as HF_TOKEN"),
    ],
)
def test_refusals_of_the_hub(cache: Path, status: int, code: str, message: str) -> None:
    with refusing_hub(status, code) as api, pytest.raises(ConfigError, match=message):
        hub.resolve("owner/name", "v9", api=api)


def test_a_closed_port_counts_as_unreachable(cache: Path) -> None:
    with refusing_hub(500, "") as api:
        pass
    with pytest.raises(ConfigError, match="cannot be reached"):
        hub.resolve("owner/name", api=api)
