"""The environment of processes that compute: everything that tunes their libraries, and nobody's secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping

_SECRET_NAME = re.compile(
    r"SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|API_?KEY|^SSH_AUTH_SOCK$|_PWD$"
    r"|(^|_)(KEYS?|TOKENS?|PASS|PAT|AUTH|COOKIE)$",
    re.IGNORECASE,
)
_URL_WITH_PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]+@")


def without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables whose name or value does not look like a secret.

    Not a list of those that are needed: drivers and the libraries below torch read more than anybody can name here.
    """
    return {
        name: value
        for name, value in environ.items()
        if not _SECRET_NAME.search(name) and not _URL_WITH_PASSWORD.search(value)
    }
