"""Where a model's files are: a local directory as it is, or a hub repository fetched into the hub's cache."""

from __future__ import annotations

import logging
import re
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Protocol

from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from engine.errors import ConfigError

log = logging.getLogger(__name__)

# Weights, text and the clips of voices; nothing that holds code or would have to be unpickled.
FILE_PATTERNS = ("*.safetensors", "*.json", "*.txt", "*.jinja", "data/*.wav", "talker/data/*.wav")

# Parts of the released snapshot that draw images, some 30 GB; nothing here reads them.
_IMAGE_GENERATION = ("transformer/", "vae/", "scheduler/", "connector/", "byt5/", "mlp/")

_REPO_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")

# The HTTP library under the hub's client changed between its major versions: this is that library's base error,
# which also covers a host that cannot be reached.
_TRANSPORT_ERRORS: tuple[type[BaseException], ...] = (HfHubHTTPError.__bases__[0], OSError)


class HubApi(Protocol):
    """What is used of `huggingface_hub.HfApi`."""

    def model_info(self, repo_id: str, *, revision: str | None, files_metadata: bool) -> Any:
        """Commit (`sha`) and files (`siblings`) of a revision."""

    def snapshot_download(
        self,
        repo_id: str,
        *,
        revision: str | None = None,
        local_files_only: bool = False,
        allow_patterns: list[str] | None = None,
    ) -> Any:
        """Fetch files into the cache; the directory they are in."""


def resolve(model: str, revision: str | None = None, *, api: HubApi | None = None) -> Path:
    """The directory of a model, downloaded if it is a hub id and not in the cache.

    Without a connection a cached copy is used.

    Raises:
        ConfigError: neither a directory nor a usable repository, no connection, or too little disk space.
    """
    directory = Path(model).expanduser()
    if directory.is_dir():
        if revision is not None:
            raise ConfigError(f"--revision {revision} is for hub ids, but {model} is a directory; leave it out")
        return directory
    try:
        if _REPO_ID.fullmatch(model):
            return _fetch(model, revision, api or HfApi())
    except HFValidationError:
        pass
    raise ConfigError(f"{model}: no such directory, and not a hub id such as owner/name")


def may_be_repository(model: str) -> bool:
    """Whether a model has to be asked for on the hub, since no local directory has this name."""
    return not Path(model).expanduser().is_dir() and _REPO_ID.fullmatch(model) is not None


def _fetch(model: str, revision: str | None, api: HubApi) -> Path:
    try:
        info = api.model_info(model, revision=revision, files_metadata=True)
    except GatedRepoError:
        raise ConfigError(f"{model}: access must be asked for on the hub; then give its token as HF_TOKEN") from None
    except RevisionNotFoundError:
        raise ConfigError(f"{model}: the hub has no revision {revision} of it") from None
    except RepositoryNotFoundError:
        raise ConfigError(f"{model}: no such directory, and no such repository on the hub") from None
    except _TRANSPORT_ERRORS as error:
        return _cached(model, revision, api, type(error).__name__)
    wanted = _wanted_files(model, info)
    missing = {name: size for name, size in wanted.items() if not _is_cached(model, name, info.sha)}
    if missing:
        _check_space(model, sum(missing.values()))
        log.info("downloading %d files of %s at %s: %s", len(missing), model, info.sha, _gb(sum(missing.values())))
    return _download(model, info.sha, sorted(wanted), api)


def _cached(model: str, revision: str | None, api: HubApi, reason: str) -> Path:
    try:
        found = api.snapshot_download(model, revision=revision, local_files_only=True)
    except LocalEntryNotFoundError:
        raise ConfigError(
            f"{model}: the hub cannot be reached ({reason}) and no copy is cached; "
            "connect to the network, or name a local directory"
        ) from None
    log.warning("%s: the hub cannot be reached (%s); using the cached copy in %s", model, reason, found)
    return Path(found)


def _download(model: str, commit: str, names: list[str], api: HubApi) -> Path:
    try:
        return Path(api.snapshot_download(model, revision=commit, allow_patterns=names))
    except _TRANSPORT_ERRORS as error:
        raise ConfigError(
            f"{model}: the download stopped ({type(error).__name__}); run the command again to go on with it"
        ) from error


def _wanted_files(model: str, info: Any) -> dict[str, int]:
    """Names and sizes in bytes of the weights and texts that this engine may read."""
    sizes = {file.rfilename: file.size for file in info.siblings}
    draws_images = any(name.startswith("transformer/") for name in sizes)
    skipped = _IMAGE_GENERATION if draws_images else ()
    wanted = {
        name: size
        for name, size in sizes.items()
        if any(fnmatch(name, pattern) for pattern in FILE_PATTERNS) and not name.startswith(skipped)
    }
    if not any(name.endswith(".safetensors") for name in wanted):
        raise ConfigError(f"{model}: the repository has no safetensors files, and no other weights are read")
    return wanted


def _is_cached(model: str, name: str, commit: str) -> bool:
    return isinstance(try_to_load_from_cache(model, name, revision=commit), str)


def _check_space(model: str, needed_bytes: int) -> None:
    cache = Path(constants.HF_HUB_CACHE)
    existing = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
    free_bytes = shutil.disk_usage(existing).free
    if needed_bytes > free_bytes:
        raise ConfigError(
            f"{model}: {_gb(needed_bytes)} to download, {_gb(free_bytes)} free in {cache}; "
            "free some space, or set HF_HUB_CACHE to a larger disk"
        )


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB"
